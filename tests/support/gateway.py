"""A sidecar at a Unix socket, and what a caller of a gateway sends and sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.listening import listening
from taximeter.api.processes.sidecar_server import DrainingServer, open_unix_socket, server_config
from taximeter.meter.sidecar import Sidecar


@asynccontextmanager
async def served_at(sidecar: Sidecar, path: Path) -> AsyncIterator[None]:
    """Serve at this Unix socket, in this event loop. Its dead file stays, as after a crash."""
    config = server_config(sidecar)
    config.log_config = None
    config.timeout_graceful_shutdown = 2
    server = DrainingServer(config, sidecar, 0.0)
    async with listening(server, [open_unix_socket(path, 0o600)]):
        yield
