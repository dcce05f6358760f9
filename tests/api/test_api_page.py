"""The commands of docs/api.md, run one after the other as they stand there, answer what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.world import World

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def steps() -> list[tuple[str, str]]:
    """(command, promised answer) in the order of the page; no answer is the empty text."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```(?:\n```json\n(.*?)```)?", text, re.DOTALL)
    return [(command, answer) for command, answer in found]


def holds(promised: Any, answer: Any) -> bool:
    """Whether the answer has everything that the page shows of it; the page leaves things out."""
    if isinstance(promised, dict):
        return isinstance(answer, dict) and all(
            key in answer and holds(one, answer[key]) for key, one in promised.items()
        )
    if isinstance(promised, list):
        return len(promised) == len(answer) and all(map(holds, promised, answer))
    return bool(promised == answer)


@asynccontextmanager
async def settling(world: World) -> AsyncIterator[None]:
    """A settler beside the page's reader."""
    done = asyncio.Event()

    async def settle() -> None:
        while not done.is_set():
            await world.settle()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(settle())
    try:
        yield
    finally:
        done.set()
        await task


@pytest.mark.parametrize("api_options", [{"rate_limits": True}])
async def test_the_page_is_true(world: World) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing: the page's commands need it; install its package")
    environment = {
        "PATH": os.environ["PATH"],
        "NO_PROXY": "*",
        "HOST": world.url,
        "ROOT": world.token("root", system_admin=True),
        "BOSS": world.token("boss"),
        "ANN": world.token("ann"),
    }
    assert len(steps()) > 20
    async with settling(world):
        for command, promised in steps():
            running = await asyncio.create_subprocess_exec(
                *("bash", "-euo", "pipefail", "-c", command),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
            async with asyncio.timeout(60):
                output, errors = await running.communicate()
            assert running.returncode == 0, (command, errors.decode())
            if promised:
                answer = json.loads(output)
                assert holds(json.loads(promised), answer), (command, answer)
            else:
                assert "until" in command or b"X-Cost-Incurred" in output.title(), output
    await world.prove()
