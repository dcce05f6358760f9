"""What runs in production is put together right: the image, the units, the health check."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from taximeter.api.commands import COMMANDS, group
from taximeter.api.commands.ready import PROCESSES
from taximeter.api.settings.api import ApiSettings
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.settler.books.settings import SettlerSettings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SETTINGS = {"api": ApiSettings, "sidecar": SidecarSettings, "settler": SettlerSettings}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, with lines that go on joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    lines = (line for line in joined.splitlines() if line and not line.startswith("#"))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_is_built_from_pins_and_runs_as_nobody() -> None:
    steps = instructions()
    assert steps[0][0] == "ARG"
    stages = [index for index, (name, _) in enumerate(steps) if name == "FROM"]
    assert len(stages) == 2
    build, final = steps[stages[0] : stages[1]], steps[stages[1] :]
    installs = [text for name, text in build if name == "RUN" and "pip install" in text]
    assert len(installs) == 2
    assert all("--no-cache-dir" in text and "--no-deps" in text for text in installs)
    assert "--require-hashes" in installs[0]
    assert "--no-build-isolation" in installs[1]
    # Nothing of ours but the environment reaches the image, and nobody installs anything there.
    assert [text for name, text in final if name == "COPY"] == [
        "--from=build /opt/taximeter /opt/taximeter"
    ]
    assert not [text for name, text in final if name == "RUN" and ("pip" in text or "apt" in text)]
    names = [name for name, _ in final]
    [user] = [text for name, text in final if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which runAsNonRoot understands"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "ADD" not in names
    assert not re.search(r"(?i)(password|secret|token|_key)\s*=", DOCKERFILE)
    for name in ("ENTRYPOINT", "CMD"):
        [text] = [text for found, text in final if found == name]
        assert isinstance(json.loads(text), list), "not by a shell, which would take the signals"
    [check] = [text for name, text in final if name == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["taximeter", "ready"]
    assert command[2] in PROCESSES


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for name, text in instructions()
        if name == "COPY" and not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert copied == allowed
    for source in copied:
        assert (ROOT / source).exists(), source


PINNED = r":[0-9].*@sha256:[0-9a-f]{64}$"


def test_images_of_others_are_named_by_version_and_digest() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {service["image"] for service in services.values()} - {"taximeter:local"}
    assert len(images) == 2
    assert all(re.search(PINNED, image) for image in images)


def test_compose_builds_the_image_and_asks_each_process_itself() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        if service.get("image") != "taximeter:local":
            continue
        assert service["build"]["context"] == "."
        assert "dockerfile_inline" not in service["build"]
        base = re.search(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
        assert base is not None
        assert service["build"]["args"] == {"PYTHON_IMAGE": f"${{PYTHON_IMAGE:-{base[1]}}}"}
        assert re.search(PINNED, base[1])
        check = service["healthcheck"]
        if name in PROCESSES:
            assert check["test"] == ["CMD", "taximeter", "ready", name]
        else:
            assert check == {"disable": True}


def test_secrets_and_pins_of_an_operator_are_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"secrets/", ".env", "docker-compose.override.yml"} <= set(ignored)


FAKE_DOCKER = """#!/bin/sh
case "$*" in
*"config --resolve-image-digests"*)
    if grep -q 'image: .*@sha256'; then exit 8; fi
    echo '{"name": "taximeter", "services": {
        "redis": {"image": "redis:7@sha256:1", "environment": {"P": "hunter2"}},
        "arq-redis": {"image": "redis:7@sha256:1"},
        "postgres": {"image": "postgres:18DIGEST", "environment": {"P": "hunter2"}}}}' ;;
*"imagetools inspect"*) echo sha256:3 ;;
*) exit 9 ;;
esac
"""


@pytest.mark.parametrize("digest", ["@sha256:2", ""])
def test_images_are_pinned_without_their_secrets(tmp_path: Path, digest: str) -> None:
    """Docker is played by a script; what is written is what Compose reads beside our file."""
    if shutil.which("jq") is None:
        pytest.skip("PINNING IS NOT TESTED: install jq")
    (tmp_path / "deploy").mkdir()
    for name in ("deploy/pin-images", "Dockerfile", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text(FAKE_DOCKER.replace("DIGEST", digest))
    fake.chmod(0o755)
    finished = subprocess.run(
        [tmp_path / "deploy" / "pin-images"],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    written = tmp_path / "docker-compose.override.yml"
    if not digest:
        assert finished.returncode == 1
        assert not written.exists()
        return
    assert finished.returncode == 0, finished.stderr
    assert yaml.safe_load(written.read_text()) == {
        "services": {
            "redis": {"image": "redis:7@sha256:1"},
            "arq-redis": {"image": "redis:7@sha256:1"},
            "postgres": {"image": "postgres:18@sha256:2"},
        }
    }
    assert finished.stdout.endswith("PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:3\n")
    assert not list(tmp_path.glob("*.override.??????"))


def options(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, is_option, value = line.partition("=")
        if is_option and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_there_is_a_unit_for_every_process() -> None:
    assert {unit.stem for unit in UNITS} == {
        f"taximeter-{name}" for name in ("api", "migrate", "settler", "sidecar")
    }


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_run_what_we_have_with_settings_that_exist(unit: Path) -> None:
    found, name = options(unit), unit.stem.removeprefix("taximeter-")
    [start] = found["ExecStart"]
    assert start.split()[:2] == ["/opt/taximeter/bin/taximeter", name]
    assert name in COMMANDS
    known = (
        {f"taximeter_{field}" for field in SETTINGS[name].model_fields}
        if (name in SETTINGS)
        else {"taximeter_migrate_database_url"}
    )
    for given in found["LoadCredential"]:
        variable, _, file = given.partition(":")
        assert variable in known
        assert variable == Path(file).name
        assert Path(file).is_relative_to("/etc/taximeter")
    for given in found.get("Environment", []):
        assert given.partition("=")[0].lower() in known
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["DynamicUser"] == ["yes"]
    assert "WatchdogSec" not in found, "nothing of ours tells systemd that it lives"


def test_units_wait_longer_than_what_the_processes_take_to_stop() -> None:
    graces = {
        "api": ApiSettings.model_fields["shutdown_grace_s"].default,
        "settler": SettlerSettings.model_fields["shutdown_grace_s"].default,
        "sidecar": SidecarSettings.model_fields["sidecar_drain_s"].default
        + SidecarSettings.model_fields["sidecar_grace_s"].default,
    }
    for name, grace_s in graces.items():
        [wait] = options(ROOT / "deploy" / "systemd" / f"taximeter-{name}.service")[
            "TimeoutStopSec"
        ]
        assert float(wait.removesuffix("s")) >= grace_s + 10, name


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("THE UNITS ARE NOT TESTED: install systemd")
    copies = []
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/taximeter/bin/taximeter", "/bin/true")
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    verified = subprocess.run(
        [analyze, "verify", *copies], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "taximeter" in line]
    assert (verified.returncode, ours) == (0, []), verified.stderr
    for copy in copies:
        judged = subprocess.run(
            [analyze, "security", "--offline=true", "--threshold=20", copy],
            capture_output=True,
            text=True,
            check=False,
        )
        assert judged.returncode == 0, judged.stdout[-300:]


class Probed(BaseHTTPRequestHandler):
    """A process that says it is ready, or not."""

    def do_GET(self) -> None:
        status = self.server.status  # type: ignore[attr-defined]
        self.send_response(status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"redis":\n "down"}')

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "somebody"


class UnixHTTPServer(UnixStreamServer):
    """The same on a Unix socket."""


@pytest.fixture(params=["tcp", "unix"])
def probed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """The server, and the settings that say where it is."""
    if request.param == "tcp":
        server: Any = HTTPServer(("127.0.0.1", 0), Probed)
        where = {
            "TAXIMETER_SIDECAR_HOST": "0.0.0.0",
            "TAXIMETER_SIDECAR_PORT": str(server.server_port),
        }
    else:
        server = UnixHTTPServer(str(tmp_path / "s"), Probed)
        where = {"TAXIMETER_SIDECAR_SOCKET": str(tmp_path / "s")}
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server, where
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_says_what_the_process_says(probed: tuple[Any, dict[str, str]]) -> None:
    server, where = probed
    server.status = 200
    told = CliRunner(env=where).invoke(group, ["ready", "sidecar"])
    assert (told.exit_code, told.output) == (0, "ready\n")
    server.status = 503
    told = CliRunner(env=where).invoke(group, ["ready", "sidecar"])
    assert told.exit_code == 1
    assert told.output.endswith(' is not ready: 503 {"redis": "down"}\n')


def test_the_health_check_of_nobody() -> None:
    for name, where in PROCESSES.items():
        fields = SETTINGS[name].model_fields
        for setting in (where.host, where.port, where.socket):
            assert setting is None or setting.lower() in fields
        assert fields[where.port.lower()].default == where.default_port
        assert fields[where.host.lower()].default == "127.0.0.1"
    cases = {
        ("api", "1"): "127.0.0.1:1 does not answer",
        ("api", "many"): "TAXIMETER_PORT: 'many' is no port",
        ("settler", ""): "TAXIMETER_SETTLER_PORT: not set",
    }
    for (name, port), said in cases.items():
        told = CliRunner(env={f"TAXIMETER_{PROCESSES[name].port}": port}).invoke(
            group, ["ready", name]
        )
        assert told.exit_code == 1
        assert said in told.output
        assert told.output.count("\n") == 1


async def test_the_health_check_costs_little() -> None:
    """It runs every few seconds beside every process, so it imports nothing of theirs."""
    code = (
        "import sys; from taximeter.api.commands import ready\n"
        "dear = ('fastapi', 'pydantic', 'redis', 'asyncpg', 'httpx')\n"
        "print([name for name in dear if name in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert told == b"[]\n"
