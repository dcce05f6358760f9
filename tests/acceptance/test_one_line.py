"""What the surroundings do to a command is said in one line that names the variable and the way
out; no traceback leaves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from support.forked import Forked, Said, run_forked

from taximeter.api.embedded.machine import free_port

pytestmark = pytest.mark.timeout(180)

COMMAND = [sys.executable, "-m", "taximeter.api"]
NOWHERE = "postgresql://api:hunter2@127.0.0.1:1/taximeter"


def environment(**changes: str) -> dict[str, str]:
    """Ours, without any setting but these."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TAXIMETER_")}
    return {**kept, **changes}


def run(folder: Path, *arguments: str, **settings: str) -> Said:
    return run_forked(*arguments, folder=folder, environment=environment(**settings))


# Command, settings, what the line says.
CASES: list[tuple[list[str], dict[str, str], list[str]]] = [
    (
        ["api"],
        {"TAXIMETER_DEV_MODE": "1", "TAXIMETER_MARKUP_BY_PLAN": "{oops"},
        ["TAXIMETER_MARKUP_BY_PLAN", "must be JSON"],
    ),
    (
        ["prices", "show", "gpt-4o"],
        {"TAXIMETER_MARKUP_BY_PLAN": "1.5,2"},
        ["TAXIMETER_MARKUP_BY_PLAN", "must be JSON"],
    ),
    (
        ["api"],
        {
            "TAXIMETER_OIDC_ISSUER": "https://a.example",
            "TAXIMETER_OIDC_AUDIENCE": "a",
            "TAXIMETER_OIDC_ALGORITHMS": "ES256",
        },
        ["TAXIMETER_OIDC_ALGORITHMS", '["RS256", "ES256"]'],
    ),
    (["sidecar"], {"TAXIMETER_MARKUP_BY_PLAN": "["}, ["TAXIMETER_MARKUP_BY_PLAN"]),
    (
        ["api"],
        {
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_UPSTREAM_BASE_URL": "https://api.openai.com/v1",
            "TAXIMETER_UPSTREAM_API_KEY": "",  # As from a variable that was not set.
        },
        ["TAXIMETER_UPSTREAM_API_KEY is empty", "api.openai.com"],
    ),
    (
        ["api"],
        {"TAXIMETER_DEV_MODE": "1", "TAXIMETER_DATA_DIR": "/dev/null/x"},
        ["TAXIMETER_DATA_DIR", "/dev/null/x"],
    ),
    (["token", "--user", "ann", "--data-dir", "/dev/null/x"], {}, ["/dev/null/x"]),
    (["dev", "--data-dir", "/dev/null/x"], {}, ["/dev/null/x"]),
    (["demo", "--data-dir", "/proc/x"], {}, ["/proc/x"]),
    (["sidecar", "--socket", "/nowhere/at/all.sock"], {}, ["/nowhere/at/all.sock"]),
    (
        ["sidecar", "--socket", "/tmp/" + "x" * 200],
        {},
        ["TAXIMETER_SIDECAR_SOCKET", "at most 107 bytes"],
    ),
    (
        ["check"],
        {"TAXIMETER_DATABASE_URL": NOWHERE, "TAXIMETER_REDIS_URL": "redis://127.0.0.1:1/0"},
        ["could not look", "TAXIMETER_DATABASE_URL"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "settings", "words"), CASES, ids=lambda one: "-".join(one)[:40]
)
def test_it_is_said_in_one_line(
    arguments: list[str], settings: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path, *arguments, **settings)
    said = done.text
    assert done.returncode in (1, 2), said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    for word in words:
        assert word in lines[0], said
    assert "hunter2" not in said


def test_a_price_file_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    source = tmp_path / "map.json"
    source.write_text(
        '{"gpt-4o": {"mode": "chat", "litellm_provider": "openai",'
        ' "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_output_tokens": 10}}'
    )
    done = run(tmp_path, "prices", "import", str(source), "-o", "/dev/null/prices.toml")
    assert done.returncode == 1
    assert "Traceback" not in done.text
    assert "/dev/null/prices.toml" in done.text


@pytest.mark.parametrize(
    "arguments", [["--help"], ["prices", "--help"], ["prices", "rounding", "--all"]], ids=" ".join
)
def test_who_reads_no_further_ends_it_quietly(arguments: list[str], tmp_path: Path) -> None:
    """As in `taximeter prices rounding --all | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as unread:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
            timeout=150,
            check=False,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_only_what_its_connection_says_is_said_of_the_database(tmp_path: Path) -> None:
    arguments = ["prices", "show", "gpt-4o"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=150,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")
    done = run(tmp_path, "prices", "history", TAXIMETER_DATABASE_URL=NOWHERE)
    assert done.returncode == 1
    assert "the Postgres of TAXIMETER_DATABASE_URL cannot be reached" in done.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_api_that_is_told_to_stop_has_succeeded(number: signal.Signals, tmp_path: Path) -> None:
    port, output = free_port(), tmp_path / "printed"
    output.touch()
    process = Forked(
        ["api", "--port", str(port)],
        folder=tmp_path,
        environment=environment(
            TAXIMETER_DEV_MODE="1",
            TAXIMETER_DATABASE_URL=NOWHERE,
            TAXIMETER_REDIS_URL="redis://127.0.0.1:1/0",
        ),
        output=output,
    )
    try:
        end = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5, trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 0, output.read_text()
    finally:
        process.kill()
    printed = output.read_text()
    assert "Aborted" not in printed
    assert "Traceback" not in printed


def test_dev_refuses_a_port_that_is_taken_and_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = str(squatter.getsockname()[1])
        done = run(tmp_path, "dev", "--port", port, "--data-dir", "dev")
    assert done.returncode == 1
    assert f"port {port}" in done.text
    assert "--port" in done.text
    assert not (tmp_path / "dev" / "valkey").exists()


def test_a_new_key_of_dev_mode_is_said(tmp_path: Path) -> None:
    """Tokens of a folder that no API uses are accepted by none."""
    first, second = (run(tmp_path, "token", "--user", "ann", TAXIMETER_DEV_MODE="1") for _ in "ab")
    assert first.returncode == second.returncode == 0
    said, _ = first.text.splitlines()
    assert "dev-session-key.pem" in said
    assert "TAXIMETER_DATA_DIR" in said
    assert second.text.count("\n") == 1
    assert len(second.text.split(".")) == 3
