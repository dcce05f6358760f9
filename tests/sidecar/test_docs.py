"""The commands of docs/sidecar.md, run one after the other, answer what the page says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.sidecar import Caller

PAGE = Path(__file__).parents[2] / "docs" / "sidecar.md"
ADDRESS = "http://127.0.0.1:8086"


def steps() -> list[tuple[str, str]]:
    """(command, promised answer) in the order of the page; no answer is the empty text."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```(?:\n```json\n(.*?)```)?", text, re.DOTALL)
    return [(command, answer) for command, answer in found]


async def test_the_page_is_true(caller: Caller) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    asked = [(command, answer) for command, answer in steps() if answer]
    assert len(asked) == 12
    # The command on a Unix socket is run by the test of the process.
    assert sum(command.count("curl") for command, _ in steps()) == len(asked) + 1
    for command, promised in asked:
        assert ADDRESS in command
        answer = await caller.shell(command.replace(ADDRESS, caller.url))
        assert json.loads(answer) == json.loads(promised), command


def test_a_key_is_made_as_the_page_says() -> None:
    [command] = [command for command, _ in steps() if "sha256sum" in command]
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"[0-9a-f]{64}\n", finished.stdout)
