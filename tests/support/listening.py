"""Runs a uvicorn server in this event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import uvicorn


@asynccontextmanager
async def listening(
    server: uvicorn.Server, sockets: list[socket.socket] | None = None
) -> AsyncIterator[str]:
    """Serve until the block ends; its URL once it takes connections, or the path of its socket.

    The signals of this process stay as they are.
    """
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets))
    try:
        async with asyncio.timeout(60):
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.005)
        name = server.servers[0].sockets[0].getsockname()
        yield name if isinstance(name, str) else f"http://{name[0]}:{name[1]}"
    finally:
        server.should_exit = True
        await task
