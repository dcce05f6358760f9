"""Every page works as it is written, from its first line, on a fresh Debian with its own servers.

The pages that go on from the quick start are run after it, each in a shell that has what the quick
start has set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.debian import Debian
from support.pages import RUN, Terminal, Walk, blocks, shown

from taximeter.api.embedded.machine import free_port

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
QUICK_START = "docs/quickstart.md"
GOES_ON = re.compile(r"^> Goes on from the \[quick start\]\((docs/)?quickstart\.md\)", re.MULTILINE)
TO_RUN = {name for name, text in PAGES.items() if any(b.language in RUN for b in blocks(text))}
AFTER = sorted(name for name in TO_RUN if GOES_ON.search(PAGES[name]))
PRODUCTION = "docs/production.md"  # Runs units and turns users off: it has a test of its own.
PORTS = ("4000", "8080", "8081", "8084", "8085", "8086", "8087", "8088")
# This takes a few seconds; the slowest machine that was seen took five times as long, with others.
PAGE_S_MAX = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# What is on the pages and not run here, by its first line, and what runs it instead.
A_DRAWING = "a drawing"
MAKE = "tests/acceptance runs the commands, test_pages looks for the targets"
NEEDS_OTHERS = "needs names, keys or machines of the reader's own"
NGINX = "tests/gateways/test_forward_auth.py"
PROVIDERS = "tests/api/test_providers.py"
PROXY = "tests/gateways/test_reverse_proxy.py"
LITELLM = "tests/gateways/test_litellm_docs.py"
CLUSTER = "tests/cluster/test_page.py"
CELLS = "tests/api/test_cells.py, tests/settler/test_cell_moves.py"
DRILL = "tests/drill, by other paths"
ARCHIVES = "tests/archive/test_commands.py"
EXPORTS = "tests/exports, tests/api/test_exports.py"
TRACING = "tests/api/test_tracing.py, tests/sidecar/test_tracing.py"
SIGN_IN = "tests/browser/test_sign_in.py, by these addresses"
WEBHOOKS = "tests/settler/test_deliveries.py"
SHOWN = {
    "CONTRIBUTING.md": {
        "make install": MAKE,
        "make test-fast": MAKE,
    },
    "README.md": {
        "✓ allocation    e2e-user-123 may spend 5,000 of them": MAKE,
        "make demo": MAKE,
        "gateway (Python) ── Meter ──┐                               ┌── admin API, LLM route "
        "(FastAPI)": A_DRAWING,
    },
    "docs/architecture.md": {
        "people, automation          OpenAI clients            gateways: HTTP,      gateways "
        "in": A_DRAWING,
        "api        commands                       the command line": A_DRAWING,
    },
    "docs/archives.md": {
        "TAXIMETER_ARCHIVE_URL=/var/lib/taximeter/archive": ARCHIVES,
        "taximeter archive write --keep 3": ARCHIVES,
        "TAXIMETER_ARCHIVE_KEEP_MONTHS=3": ARCHIVES,
        "taximeter usage acme --from 2025-01-01 --to 2025-03-31": ARCHIVES,
        "taximeter archive restore 2026-02": ARCHIVES,
    },
    "docs/exports.md": {
        'curl -f -o usage.csv -H "Authorization: Bearer $TOKEN" \\': EXPORTS,
        "TAXIMETER_EXPORT_URL=s3://bucket/prefix": EXPORTS,
        "taximeter export --from 2026-01-01 --to 2026-10-31": EXPORTS,
        "parquet/requests/date=2026-11-29/requests.parquet": EXPORTS,
        "taximeter check --exports": EXPORTS,
        'TAXIMETER_EXPORT_KINDS=["focus"]': EXPORTS,
    },
    "docs/backups.md": {
        "archive_mode = on": DRILL,
        "pg_basebackup -D /backup/base-$(date +%F) --checkpoint=fast --wal-method=none": DRILL,
        "mv /var/lib/postgresql/15/main /var/lib/postgresql/15/main.before": DRILL,
        "taximeter restored": DRILL,
        "export TAXIMETER_REDIS_URL=redis://localhost:6379/0": DRILL,
        'taximeter restored --same "Redis was replaced"': "tests/settler/test_installation.py",
    },
    "docs/cells.md": {
        "export TAXIMETER_DIRECTORY_URL=postgresql://owner@directory.example.com/taximeter": CELLS,
        "export TAXIMETER_CELL=a": CELLS,
    },
    "docs/cluster.md": {
        "cluster-enabled yes": CLUSTER,
        "nodes='10.0.0.1:6379 10.0.0.2:6379 10.0.0.3:6379 10.0.0.4:6379 10.0.0.5:6379 "
        "10.0.0.6:6379'": CLUSTER,
        "TAXIMETER_REDIS_URL=redis://settler:PASSWORD@10.0.0.1:6379,10.0.0.2:6379,10.0.0.3:6379"
        "/0": CLUSTER,
        "slot=$(redis-cli -u redis://10.0.0.1:6379 CLUSTER KEYSLOT '{tm:5}:meta')": CLUSTER,
    },
    "docs/console.md": {
        "https://credits.example.com/console/session/back   redirect URI": SIGN_IN,
        "TAXIMETER_CONSOLE_URL=https://credits.example.com": SIGN_IN,
    },
    "docs/releases.md": {
        "taximeter migrate": "tests/upgrade",
        "make release": "tests/packaging/test_release.py",
    },
    "docs/quickstart.md": {
        "sudo apt install git make curl python3-venv redis-server postgresql": NEEDS_OTHERS,
        ".venv/bin/python -m build --wheel --no-isolation": "tests/packaging/test_wheel.py",
        "export TAXIMETER_UPSTREAM_BASE_URL=https://api.openai.com/v1": NEEDS_OTHERS,
    },
    "docs/growth.md": {
        "make growth": "tests/growth",
        "1,000,000 requests/s, 100,000 organisations (the largest makes 1.00%), 100,000,000 "
        "users": "tests/docs/test_growth_page.py",
    },
    "docs/python-client.md": {"pip install ./taximeter": "tests/packaging/test_wheel.py"},
    "docs/sidecar.md": {
        "TAXIMETER_REDIS_URL=redis://127.0.0.1:6379/0 taximeter sidecar --port 8086": "the "
        "quick start does",
    },
    "docs/llm-route.md": {
        "TAXIMETER_UPSTREAMS_FILE=upstreams.toml taximeter api --port 8084": NEEDS_OTHERS,
        "[[upstreams]]": "tests/api/test_llm_docs.py",
    },
    "docs/litellm.md": {
        "python3 -m venv litellm": LITELLM,
        "model_list:": LITELLM,
        "export OPENAI_API_KEY=sk-...": LITELLM,
        "curl -si http://127.0.0.1:4000/v1/chat/completions -H "
        '"Authorization: Bearer $LITELLM_MASTER_KEY" \\': LITELLM,
    },
    "docs/forward-auth.md": {
        "export TAXIMETER_SIDECAR_KEYS=$(printf %s a-long-random-key | sha256sum | "
        "cut -d ' ' -f 1)": "tests/sidecar/test_process.py",
        "map $http_authorization $org_id {": NGINX,
        "server {": NGINX,
        "http://127.0.0.1:8080 {": NGINX,
        "static_resources:": NGINX,
        "# Dynamic configuration. A middleware before it sets X-Org-Id and X-User-Id from your "
        "login.": "nothing: Traefik is not run by our tests, as the page says",
    },
    "docs/tracing.md": {
        "TAXIMETER_TRACING=true": TRACING,
        "POST /api/v1/llm/chat/completions    the whole request, below the caller's "
        "traceparent": A_DRAWING,
        "from taximeter.meter.traced import TracedMeter": TRACING,
    },
    PRODUCTION: {
        "sudo -i": "tests/packaging/test_deploy.py: the image is made by the same commands",
        'read -rs key && echo "$key" >api/taximeter_upstream_api_key': NEEDS_OTHERS,
        'read -rs token && echo "Authorization: Bearer $token" >~/session': NEEDS_OTHERS,
        "# keycloak": PROVIDERS,
        "# entra": PROVIDERS,
        "# google": PROVIDERS,
        "upstream taximeter_api { server 127.0.0.1:8084; keepalive 64; }": PROXY,
        "credits.example.com {": PROXY,
    },
    "docs/security.md": {
        "TAXIMETER_DATABASE_URL=$TAXIMETER_MIGRATE_DATABASE_URL taximeter reshard --shards 4": (
            "tests/settler/test_maintenance.py"
        ),
        "TAXIMETER_REDIS_URL=rediss://gateway:secret@redis.internal:6379/0"
        "?ssl_ca_certs=/etc/ssl/internal-ca.pem": "tests/settler/test_tls.py",
    },
    "docs/webhooks.md": {
        "POST /taximeter HTTP/1.1": WEBHOOKS,
    },
}


@dataclass
class Reader:
    """Somebody at a shell, and where what stands on the pages is on this machine."""

    terminal: Terminal
    places: dict[str, str]

    def walk(self, page: str, *, stays: bool = False) -> Walk:
        return self.terminal.walk(page, self.places, stays=stays, timeout_s=PAGE_S_MAX)


@contextmanager
def reader(debian: Debian, folder: Path) -> Iterator[Reader]:
    """In the clone, on empty servers, with nothing in the environment but where those are."""
    debian.emptied()
    home = folder / "home"
    home.mkdir()
    environment = {
        "PATH": f"{debian.tools}:{os.defpath}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
        "PYTHON": os.environ.get("PYTHON", ""),
        **debian.environment,
    }
    places = {port: str(free_port()) for port in PORTS}
    places |= {"6379": str(debian.redis_port), "5432": str(debian.postgres_port)}
    terminal = Terminal(folder, environment, ROOT)
    try:
        yield Reader(terminal, places)
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def quick_start(
    debian: Debian, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Reader, Walk]]:
    """Somebody who has done the quick start, and what it said to them."""
    with reader(debian, tmp_path_factory.mktemp("reader")) as one:
        yield one, one.walk(PAGES[QUICK_START], stays=True)


@pytest.fixture
def after(quick_start: tuple[Reader, Walk]) -> Reader:
    """The same, if it went well."""
    if quick_start[1].complaint() is not None:
        pytest.fail("the quick start fails, see its own test")
    return quick_start[0]


def works(walk: Walk) -> None:
    complaint = walk.complaint()
    assert complaint is None, complaint


@pytest.mark.whole
def test_the_quick_start(quick_start: tuple[Reader, Walk]) -> None:
    works(quick_start[1])


@pytest.mark.whole
@pytest.mark.parametrize("page", AFTER)
def test_a_page_that_goes_on(page: str, after: Reader) -> None:
    works(after.walk(PAGES[page]))


@pytest.mark.whole
def test_the_books_are_right_after_all_of_them(after: Reader) -> None:
    works(after.walk("```sh\ntaximeter check\n```\n"))


def test_a_page_with_something_to_run_says_where_it_begins() -> None:
    assert {QUICK_START, PRODUCTION, *AFTER} == TO_RUN, "write: > Goes on from the [quick start]"


def test_what_is_not_run_is_known() -> None:
    """A block that says `console`, or nothing, is a promise that nobody keeps by itself."""
    found = {name: {one.first for one in shown(text)} for name, text in PAGES.items()}
    assert {name: lines for name, lines in found.items() if lines} == {
        name: set(lines) for name, lines in SHOWN.items()
    }
    for name, text in PAGES.items():
        for one in blocks(text):
            assert one.language, f"{name}, line {one.line}: say sh, console or text"
