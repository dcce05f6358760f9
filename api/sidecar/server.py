"""uvicorn around the sidecar: bounded heads, a drain before the shutdown, sockets of our own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from asyncio import TimerHandle
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from taximeter.api.sidecar.settings import SidecarSettings
from taximeter.meter.sidecar import Sidecar

HEAD_BYTES_MAX = 32_768
HEAD_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 10_000


class BoundedProtocol(HttpToolsProtocol):
    """HTTP with limits on the head of a request, which uvicorn leaves to a proxy in front.

    Only a head that arrives in pieces is looked at: one that came whole was bounded by one read.
    """

    _head_bytes = 0
    _head_timer: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        before: RequestResponseCycle | None = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_bytes = 0
            self._stop_timer()
        elif before is None or before.response_complete:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._give_up()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._stop_timer()
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class DrainingServer(uvicorn.Server):
    """A server whose first signal starts a drain; it stops when that is over, or at the second.

    During the drain the sidecar refuses new credits and still ends holds, for gateways that have
    some open. Then no connection is taken any more, and what runs is finished.
    """

    def __init__(self, config: uvicorn.Config, sidecar: Sidecar, drain_s: float) -> None:
        super().__init__(config)
        self._sidecar = sidecar
        self._drain_s = drain_s
        self._stop_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._sidecar.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self._sidecar.drain()
        self._stop_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def server_config(sidecar: Sidecar, settings: SidecarSettings | None = None) -> uvicorn.Config:
    """How uvicorn serves the sidecar; a benchmark of the same server takes this too."""
    return uvicorn.Config(
        sidecar,
        host=settings.sidecar_host if settings else "127.0.0.1",
        port=settings.sidecar_port if settings else 0,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,  # A line per request costs more than the request's own work here.
        proxy_headers=False,  # Nothing here depends on who the caller says it is.
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=int(settings.sidecar_grace_s) if settings else 10,
        log_level="info",
    )


def open_unix_socket(path: Path, mode: int) -> socket.socket:
    """A bound Unix socket that nobody could connect to before it had its permissions.

    A socket file that a dead process left is replaced. Raises OSError when another process answers
    there, or when the path is something else.
    """
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(f"another process listens on {path}")
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        made.bind(str(path))
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    made.setblocking(False)
    return made
