"""Runs uvicorn around the sidecar: one write an answer, bounded heads, a drain at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.api.web.background import REQUESTS_SHARE
from taximeter.api.web.connections import GuardingServer, connection_limits
from taximeter.api.web.wire_protocol import HEAD_BYTES_MAX, JoiningProtocol
from taximeter.meter.sidecar import Sidecar
from taximeter.meter.sidecar.body import BODY_BYTES_MAX

HEAD_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 10_000


class SidecarProtocol(JoiningProtocol):
    """Answers in one write, with bounds in bytes and in time that the parser does not have.

    What arrives is counted from one complete head to the next: before a head, bytes and time are
    bounded by what a head may take; after it, bytes by what a body and its chunks may take. A head
    that comes in one read, as it mostly does, costs one comparison.
    """

    _received = 0
    _head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._received = 0
            if self._head_timer is not None:
                self._stop_timer()
            return
        self._received += len(data)
        if _is_answering(before):
            body_bytes_max = getattr(self.config.app, "body_bytes_max", None) or BODY_BYTES_MAX
            if self._received > HEAD_BYTES_MAX + 2 * body_bytes_max:
                self._give_up()
        elif self._received > HEAD_BYTES_MAX:
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


def _is_answering(cycle: RequestResponseCycle | None) -> bool:
    """Whether a request has begun and its answer has not ended: what arrives then is its body."""
    return cycle is not None and not cycle.response_complete


class DrainingServer(GuardingServer):
    """A server whose first signal starts a drain; it stops when that is over, or at the second.

    During the drain the sidecar refuses new credits and still ends holds, for gateways that have
    some open. Then no connection is taken any more, and what runs is finished.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sidecar: Sidecar,
        drain_s: float,
        when_started: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(config, when_started)
        self._sidecar = sidecar
        self._drain_s = drain_s
        self._stop_at = float("inf")
        self._is_signalled = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_signalled:
            self.force_exit = sig == signal.SIGINT
            self.stop_now()
            return
        # One that keeps several may have begun the drain already, for the same reason.
        self._is_signalled = True
        self.begin_drain()

    def begin_drain(self) -> None:
        """Take no new credits from now on, and stop when the drain is over. Once is enough."""
        if not self._sidecar.draining:
            self._sidecar.drain()
            self._stop_at = time.monotonic() + self._drain_s

    def stop_now(self) -> None:
        """Take no connection any more, finish what runs, and stop."""
        self.begin_drain()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def server_config(application: Any, settings: SidecarSettings | None = None) -> uvicorn.Config:
    """How uvicorn serves the sidecar, or another ASGI application that is to be compared with
    it.
    """
    config = uvicorn.Config(
        application,
        host=settings.sidecar_host if settings else "127.0.0.1",
        port=settings.sidecar_port if settings else 0,
        loop="uvloop",
        http=SidecarProtocol,
        ws="none",
        lifespan="off",
        access_log=False,  # A line per request costs more than the request's own work here.
        proxy_headers=False,  # Nothing here depends on who the caller says it is.
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        # Then what is left of the grace is for what the meter has queued.
        timeout_graceful_shutdown=settings.sidecar_grace_s * REQUESTS_SHARE if settings else 10,  # type: ignore[arg-type]  # It only waits so long.
        log_config=None,
    )
    per_peer = settings.connections_per_peer_max if settings else None
    config.connection_limits = connection_limits(per_peer=per_peer)  # type: ignore[attr-defined]
    return config


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
    except OSError as error:
        made.close()
        # A path that is too long, or a folder that is not there, is told apart by its text alone.
        raise OSError(f"{path} cannot be listened on: {error.strerror or error}") from None
    finally:
        os.umask(before)
    made.setblocking(False)
    return made
