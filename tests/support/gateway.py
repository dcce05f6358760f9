"""A sidecar at a Unix socket, and what a caller of a gateway sends and sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from taximeter.api.processes.sidecar_server import DrainingServer, open_unix_socket, server_config
from taximeter.meter.sidecar import Sidecar


@asynccontextmanager
async def served_at(sidecar: Sidecar, path: Path) -> AsyncIterator[None]:
    """Serve at this Unix socket, in this event loop. Its dead file stays, as after a crash."""
    config = server_config(sidecar)
    config.log_config = None
    config.timeout_graceful_shutdown = 2
    server = DrainingServer(config, sidecar, 0.0)
    task = asyncio.create_task(server.serve(sockets=[open_unix_socket(path, 0o600)]))
    try:
        async with asyncio.timeout(60):
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
