"""A command of Taximeter as a process of its own, with everything that it prints."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support.world import World

COMMAND = (sys.executable, "-m", "taximeter.api")


@dataclass
class Running:
    """A process that serves. `output` grows while it runs."""

    process: asyncio.subprocess.Process
    url: str = ""
    output: bytearray = field(default_factory=bytearray)

    async def ended(self) -> int:
        async with asyncio.timeout(180):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str, **settings: object) -> AsyncIterator[Running]:
    """Start it and wait until it says where it listens; killed at the end if it still runs."""
    ours = {f"TAXIMETER_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        env={**os.environ, **ours},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    found = Running(process)
    listens = asyncio.Event()

    async def read() -> None:
        assert process.stdout is not None
        while part := await process.stdout.read(65536):
            found.output += part
            if address := re.search(rb"running on (http\S+)", found.output):
                found.url = address[1].decode()
                listens.set()
        listens.set()

    reader = asyncio.create_task(read())
    try:
        async with asyncio.timeout(180):
            await listens.wait()
        assert found.url, found.output.decode()
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


def same_books(world: World) -> dict[str, object]:
    """Settings with which a process serves what the world serves."""
    return {
        "database_url": world.settings.database_url,
        "redis_url": world.settings.redis_url,
        "key_prefix": world.settings.key_prefix,
        "dev_mode": 1,
        "data_dir": world.settings.data_dir,
        "membership_cache_s": 0,
        # Those of production are for machines that do nothing else.
        "database_timeout_s": world.settings.database_timeout_s,
        "database_wait_s": world.settings.database_wait_s,
    }
