"""Bounds how long a connection may take for what it owes, and how many there may be: nobody stops a
process by opening sockets and sending little or nothing.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_WITHIN_S: Final = 10.0
"""From accepting a connection, or from the end of an answer, to the end of the next head."""
BODY_WITHIN_S: Final = 70.0
"""From a head to the end of its body: more than what any route gives its own."""
REST_WITHIN_S: Final = 5.0
"""What is still to come of a body whose request was answered already."""
READ_WITHIN_S: Final = 60.0
"""How long a caller may read nothing of an answer that does not fit between us."""
CONNECTIONS_MAX: Final = 10_000
_RESERVED: Final = 128
"""Descriptors that are not for callers: stores, upstreams, files."""
_TICKS_A_LOOK: Final = 5


@dataclass(slots=True)
class ConnectionLimits:
    """How many connections one process takes. `waiting` are those that have sent no whole head yet,
    oldest first: they make room for new ones.
    """

    total: int
    per_peer: int
    waiting: OrderedDict[GuardedProtocol, None] = field(default_factory=OrderedDict)
    peers: Counter[str] = field(default_factory=Counter)
    refused: int = 0


def connection_limits(others: int = 0, per_peer: int | None = None) -> ConnectionLimits:
    """As many as the descriptors of this process allow beside `others`, which upstreams may take.
    The soft limit is raised to the hard one first. A single address may have three in four of them,
    unless `per_peer` says otherwise: behind a proxy all callers have one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + others + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        soft = max(soft, most)
    free = CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else soft - others - _RESERVED
    total = min(CONNECTIONS_MAX, max(free, soft // 4))
    return ConnectionLimits(total, per_peer or total * 3 // 4)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for whatever a caller owes at the moment; `close_late`
    looks at them. uvicorn's own time-out is for silence between requests alone, and any byte ends
    it.
    """

    _owes_until: float | None = None
    _has_body_to_come = False
    _unread = 0
    _peer: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits: ConnectionLimits | None = getattr(self.config, "connection_limits", None)
        self._owes_until = self.loop.time() + HEAD_WITHIN_S
        if limits is None:
            return
        peer = self.client[0] if self.client else ""  # Nobody's, on a Unix socket.
        self._peer = peer
        limits.peers[peer] += 1
        limits.waiting[self] = None
        if peer and limits.peers[peer] > limits.per_peer:
            self._leave(limits)
        elif len(self.connections) > limits.total:
            oldest = next(iter(limits.waiting))
            oldest._leave(limits)

    def connection_lost(self, exc: Exception | None) -> None:
        limits: ConnectionLimits | None = getattr(self.config, "connection_limits", None)
        if limits is not None and self._peer is not None:
            limits.waiting.pop(self, None)
            limits.peers[self._peer] -= 1
            if limits.peers[self._peer] <= 0:
                del limits.peers[self._peer]
            self._peer = None
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._owes_until = self.loop.time() + BODY_WITHIN_S
        self._has_body_to_come = True
        limits: ConnectionLimits | None = getattr(self.config, "connection_limits", None)
        if limits is not None:
            limits.waiting.pop(self, None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_body_to_come = False
        cycle: Any = self.cycle
        answered = cycle is None or cycle.response_complete
        self._owes_until = self.loop.time() + HEAD_WITHIN_S if answered else None

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._owes_until = None  # The next request is here already.
        else:
            within_s = REST_WITHIN_S if self._has_body_to_come else HEAD_WITHIN_S
            self._owes_until = self.loop.time() + within_s
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._owes_until = self.loop.time() + READ_WITHIN_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self._owes_until = self.loop.time() + BODY_WITHIN_S if self._has_body_to_come else None

    def is_late(self, now: float) -> bool:
        """Whether the time is over. Who goes on to read a long answer has not let it pass."""
        if self._owes_until is None or now <= self._owes_until:
            return False
        unread = self.transport.get_write_buffer_size()
        if unread and unread != self._unread:
            self._unread = unread
            self._owes_until = now + READ_WITHIN_S
            return False
        return True

    def _leave(self, limits: ConnectionLimits) -> None:
        limits.waiting.pop(self, None)
        limits.refused += 1
        self.transport.abort()


def close_late(connections: set[Any], now: float) -> None:
    """Close every connection that has not done in time what it owes."""
    for one in list(connections):
        if one.is_late(now):
            one.transport.abort()


class GuardingServer(uvicorn.Server):
    """A server that takes as many connections as it has descriptors for, and looks twice a second
    for those whose time is over. `when_started` is called once, when it takes connections; the
    application's `when_stopping`, if it has one, when it takes no more.
    """

    def __init__(
        self, config: uvicorn.Config, when_started: Callable[[], object] | None = None
    ) -> None:
        super().__init__(config)
        self._when_started = when_started

    async def on_tick(self, counter: int) -> bool:
        if self._when_started is not None:
            when_started, self._when_started = self._when_started, None
            when_started()
        if counter % _TICKS_A_LOOK == 0:
            close_late(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First those are told who answer for as long as somebody listens."""
        when_stopping = getattr(self.config.app, "when_stopping", None)
        if when_stopping is not None:
            when_stopping()
        await super().shutdown(sockets)
