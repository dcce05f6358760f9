"""The production page as it stands, on Debian's own servers, from nothing to the first metered
request: its commands, its units, its settings. An identity provider and a model are played.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from support import systemctl
from support.debian import Debian, debian_servers
from support.pages import Terminal, blocks
from support.waiting import eventually

from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.simulator.app import create_simulator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
UNITS = ("taximeter-api", "taximeter-sidecar", "taximeter-settler")
PAGE_S_MAX = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Issuer:
    """A realm of Keycloak, as far as the API asks it."""

    def __init__(self) -> None:
        key = self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": "k1", "use": "sig"}

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer = f"http://{self.headers['Host']}/realms/main"
                answer: dict[str, Any] = {"keys": [jwk]}
                if self.path.endswith("openid-configuration"):
                    answer = {"issuer": issuer, "jwks_uri": f"{issuer}/keys"}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer((LOOPBACK, 0), Answering)
        self.name = f"http://{LOOPBACK}:{self.server.server_port}/realms/main"

    def token(self, **claims: Any) -> str:
        now = int(time.time())
        said = {
            "iss": self.name,
            "aud": ["taximeter", "account"],
            "iat": now,
            "exp": now + 3600,
            "typ": "Bearer",
            **claims,
        }
        return jwt.encode(said, self._key, "RS256", headers={"kid": "k1"})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def upstream() -> Iterator[str]:
    """The simulated provider, in a thread."""
    import uvicorn

    port = free_port()
    config = uvicorn.Config(create_simulator(), host=LOOPBACK, port=port, log_config=None)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    yield f"http://{LOOPBACK}:{port}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture
def own_debian() -> Iterator[Debian]:
    """A pair of servers for this page alone, which switches off Redis's default user."""
    folder = Path(tempfile.mkdtemp(prefix="taximeter-production-"))
    folder.chmod(0o755)
    try:
        with debian_servers(folder) as servers:
            yield servers
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """The folder of the stand-in for systemd; what it has started ends."""
    folder = tmp_path / "machine"
    (folder / "units").mkdir(parents=True)
    yield folder
    for unit in UNITS:
        systemctl.stop(folder, unit)


@pytest.mark.whole
def test_from_nothing_to_the_first_metered_request(
    own_debian: Debian, issuer: Issuer, upstream: str, machine: Path, tmp_path: Path
) -> None:
    places = {
        "https://id.example.com/realms/main": issuer.name,
        "https://api.openai.com/v1": upstream,
        "/etc/taximeter": str(tmp_path / "etc"),
        "/etc/systemd/system": str(machine / "units"),
        "/opt/taximeter/bin": str(Path(sys.executable).parent),
        "/var/lib/taximeter-api": str(machine / "state" / "taximeter-api"),
        "~/taximeter": str(ROOT),
        "6379": str(own_debian.redis_port),
        "5432": str(own_debian.postgres_port),
    } | {port: str(free_port()) for port in ("8084", "8086", "8087")}
    (machine / "places.json").write_text(json.dumps(places))
    shim = own_debian.tools / "systemctl"
    stand_in = ROOT / "tests" / "support" / "systemctl.py"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} {machine} "$@"\n')
    shim.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    token = issuer.token(sub="u-1", email="ann@example.com", email_verified=True, name="Ann")
    (home / "session").write_text(f"Authorization: Bearer {token}\n")
    environment = {
        "PATH": f"{own_debian.tools}:{os.defpath}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
        **own_debian.environment,
    }
    terminal = Terminal(tmp_path, environment, home)
    try:
        walk = terminal.walk(PAGE, places, stays=True, timeout_s=PAGE_S_MAX)
        logs = "\n".join(log.read_text()[-1500:] for log in sorted(machine.glob("*.log")))
        complaint = walk.complaint()
        assert complaint is None, f"{complaint}\n{logs}"
    finally:
        terminal.close()
    # Nobody but root reads a secret, and none is in a unit, a setting or a log.
    etc = tmp_path / "etc"
    secrets = [one for one in etc.rglob("*") if one.is_file()]
    assert {one.stat().st_mode & 0o077 for one in [*secrets, *etc.iterdir()]} == {0}
    said = logs + (etc / "taximeter.env").read_text()
    for one in etc.glob("*.password"):
        assert len(one.read_text()) == 48
        assert one.read_text() not in said
    # The user that everybody was before is nobody now.
    with pytest.raises(AssertionError, match="NOAUTH"):
        own_debian.ran("redis-cli", "-e", "PING")
    # What was metered is settled, and the roles are those of the page.
    query = "SELECT count(*), min(credits_used) > 0 FROM credit_usage_attribution"
    psql = ("sudo", "-u", "postgres", "psql", "-XqAt", "-d", "taximeter", "-c", query)

    async def is_settled() -> bool:
        return own_debian.ran(*psql) == "1|t\n"

    asyncio.run(eventually(is_settled, what="the request to be settled"))
    users = own_debian.sql(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'taximeter' ORDER BY 1"
    )
    # The sidecar had nothing to ask yet.
    assert {"api", "settler"} <= set(users.split()) <= {"api", "settler", "sidecar"}


def test_the_page_writes_what_units_read() -> None:
    """A secret that the page does not write, or a unit does not read, is found on the first day."""
    commands = "".join(one.text for one in blocks(PAGE) if one.language in ("sh", "console"))
    written = set(re.findall(r">\S*/(taximeter_\w+)", commands))
    read = {
        line.partition("=")[2].partition(":")[0]
        for unit in (ROOT / "deploy" / "systemd").glob("*.service")
        for line in unit.read_text().splitlines()
        if line.startswith("LoadCredential=")
    }
    assert read == written
