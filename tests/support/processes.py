"""A command of Taximeter as a process of its own, with everything that it prints."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support.forked import Forked
from support.world import World


@dataclass
class Running:
    """A process that serves. `output` grows while it runs."""

    process: Forked
    url: str = ""
    output: bytearray = field(default_factory=bytearray)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 180)


@asynccontextmanager
async def running(
    *arguments: str, descriptors: int | None = None, **settings: object
) -> AsyncIterator[Running]:
    """Start it and wait until it says where it listens; killed at the end if it still runs.

    descriptors: how many it may have, if not as many as we.
    """
    ours = {f"TAXIMETER_{name.upper()}": str(value) for name, value in settings.items()}
    read_end, write_end = multiprocessing.Pipe(duplex=False)
    process = await asyncio.to_thread(
        Forked,
        arguments,
        environment={**os.environ, **ours},
        output=write_end,
        descriptors=descriptors,
    )
    write_end.close()
    found = Running(process)
    listens = asyncio.Event()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(read_end.fileno()), "rb")
    )
    read_end.close()

    async def read() -> None:
        while part := await reader.read(65536):
            found.output += part
            if address := re.search(rb"running on (http\S+)", found.output):
                found.url = address[1].decode()
                listens.set()
        listens.set()

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(180):
            await listens.wait()
        assert found.url, found.output.decode()
        yield found
    finally:
        process.kill()
        await found.ended()
        await reading
        transport.close()


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
