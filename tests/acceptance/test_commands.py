"""`taximeter demo` and `taximeter dev` as people run them: processes, terminals, real servers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from taximeter.api.embedded.machine import free_port

COMMAND = [sys.executable, "-m", "taximeter.api"]
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    "where",
    [
        pytest.param([], id="one server", marks=pytest.mark.whole),
        # A call that waits for the slot has the patience of production.
        pytest.param(["--cluster"], id="cluster", marks=pytest.mark.alone),
        # Two whole systems: as much work as thirty other tests.
        pytest.param(["--cells", "2"], id="two cells", marks=pytest.mark.long),
    ],
)
def test_the_demo_adds_up(where: list[str], tmp_path: Path) -> None:
    """The main job on real input: it exits 0 only if clients, balances and books agree."""
    finished = subprocess.run(
        [*COMMAND, "demo", *where, "--requests", "500", "--data-dir", str(tmp_path / "demo")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Everything adds up." in finished.stdout
    assert re.search(r"refused +\d+ x 402", finished.stdout)
    for part in ("Organisations", "Users", "hold ", "settlement lag", "The books are right"):
        assert part in finished.stdout
    if "--cells" in where:
        assert "the same on both sides" in finished.stdout
        assert finished.stdout.count("The books are right") == 3
    if "--cluster" in where:
        assert "32 shards on them: 11, 11, 10" in finished.stdout
        assert re.search(r"slot moved +shard \d+ of demo-aurora-", finished.stdout)
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(one.info)]


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_demo_stays_open_until_ctrl_c(tmp_path: Path) -> None:
    """Its console answers, and the signal ends everything in good order: with 0, no traceback, and
    nothing that goes on running.
    """
    arguments = ["demo", "--requests", "500", "--stay", "--data-dir", str(tmp_path / "demo")]
    with staying(arguments) as (process, printed):
        assert "Everything adds up." in printed
        [place] = re.findall(r"^The console: (.+)$", printed, re.MULTILINE)
        if place.startswith("not built"):
            assert "make console" in place
        else:
            page = httpx.get(place, timeout=60, trust_env=False)
            assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 5
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()
        assert process.wait(120) == 0
    psutil.wait_procs(children, timeout=60)
    assert not [one for one in children if one.is_running()]


@contextmanager
def dev(
    data_dir: Path, port: int, *, cwd: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `taximeter dev` and what it printed until it said how to stop it."""
    with staying(["dev", "--data-dir", str(data_dir), "--port", str(port)], cwd=cwd) as found:
        yield found


@contextmanager
def staying(
    arguments: list[str], *, cwd: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that stays, and what it printed until it said how to stop it."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail(f"{arguments[0]} ended: {printed}")
        yield process, printed
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def ask(printed: str) -> str:
    """Run the curl line that dev printed, as a person would."""
    [line] = re.findall(r"^curl .*?\}'$", printed, re.MULTILINE | re.DOTALL)
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_dev_keeps_its_data_and_ports_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Told to stop it ends well, and with an error when a part of it dies. In the folder that it
    takes by itself, so that `taximeter token` finds its key.
    """
    if shutil.which("curl") is None:
        pytest.skip("curl is missing, so the line that dev prints cannot be run: install curl")
    home = tmp_path / "home"
    home.mkdir()
    port = free_port()
    places, remaining = [], []
    for last in (False, True):
        with dev(Path(".data/dev"), port, cwd=home) as (process, printed):
            answer = ask(printed)
            assert answer.startswith("HTTP/1.1 200")
            found = re.search(r"x-credits-remaining: ([\d.]+)", answer, re.IGNORECASE)
            assert found, answer
            remaining.append(float(found.group(1)))
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 6
            places.append(re.findall(r"^ +(Postgres|Redis|sidecar) +(\S+)", printed, re.MULTILINE))
            sidecar = dict(places[-1])["sidecar"]
            assert httpx.get(f"{sidecar}/healthz", timeout=60, trust_env=False).status_code == 200
            if last:
                assert is_system_admin(home, printed)
                [line] = re.findall(r"processes +(.*)", printed)
                settler = int(dict(one.split(" ") for one in line.split(", "))["settler"])
                os.kill(settler, signal.SIGKILL)
                assert process.stdout is not None
                told = process.stdout.read()
                assert process.wait(60) == 1
                assert "the settler has ended by itself (exit -9)" in told
                assert "Traceback" not in told
        assert process.returncode == int(last)
        end = time.monotonic() + 60
        while any(child.is_running() and child.status() != "zombie" for child in children):
            assert time.monotonic() < end, [child for child in children if child.is_running()]
            time.sleep(0.05)
    assert remaining[1] < remaining[0] < 5000, "the second run goes on where the first one ended"
    assert places[0] == places[1]
    assert len(places[0]) == 3


def is_system_admin(home: Path, printed: str) -> bool:
    """Whether whom `taximeter token` names as one is one to the API."""
    token = subprocess.run(
        [*COMMAND, "token", "--user", "root", "--system-admin"],
        cwd=home,
        env=without_settings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    [api] = re.findall(r"^ +API +(http\S+)", printed, re.MULTILINE)
    me = httpx.get(
        f"{api}/api/v1/auth/user",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )
    return me.json()["is_system_admin"] is True


def without_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("TAXIMETER_")}
