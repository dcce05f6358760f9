"""Speaks HTTP on the wire for API and sidecar: parsed in C, one write an answer, heads bounded."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from taximeter.api.web.connections import GuardedProtocol

HEAD_BYTES_MAX = 32_768
_CONTINUE = b"HTTP/1.1 100 "
HEAD_TIMEOUT_S = 10.0
_LATE = "The request's head did not arrive in time."
_REFUSAL = "The request's head is too long."


class HeadWaits:
    """The transport as one answer writes to it until its body begins: the head waits for the first
    part of the body, so that both leave in one write to the socket instead of two.

    uvicorn writes a body, if only an empty one, after every head except to HEAD, or it closes.
    """

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._cycle.transport = self._transport
            self._transport.write(self._head + data)
        elif data.startswith(_CONTINUE):
            self._transport.write(data)
        else:
            self._head = data

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoiningProtocol(GuardedProtocol):
    """uvicorn's protocol, which sends the head of an answer together with what follows it.

    uvicorn writes them one by one, and a write is a system call and a packet: the dearest part of a
    small answer.
    """

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        # Nothing follows the head of an answer to HEAD, so that one must not wait.
        if cycle is not before and self.scope["method"] != "HEAD":
            cycle.transport = cast(asyncio.Transport, HeadWaits(self.transport, cycle))


class BoundedProtocol(JoiningProtocol):
    """The API's protocol, which answers 400 when a head, a trailer or the frame of a chunk grows
    without an end, or a head does not end in time.

    Two sums see to that: what the parser has reported of one request's head and trailers, and what
    it has taken in since it last reported anything, which is what it keeps. Both are bytes.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._reported = 0
        self._unreported = 0
        self._has_reported = False
        self._is_in_head = False
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._has_reported = False
        super().data_received(data)
        if self._is_in_head and self._head_timer is None:
            # Only a head that comes in parts is timed: most come whole, and cost nothing here.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        if self._has_reported:
            self._unreported = 0
            return
        self._unreported += len(data)
        if self._unreported > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.logger.warning(_REFUSAL)
            self.send_400_response(_REFUSAL)

    def on_message_begin(self) -> None:
        self._reported = 0
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._is_in_head or self.transport.is_closing():
            return
        before = cast(RequestResponseCycle | None, self.cycle)
        if before is not None and not before.response_complete:
            # The answer before it is still being written: nothing may be written into it.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
            return
        self.send_400_response(_LATE)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._has_reported = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_reported = True
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._has_reported = True
        self._reported += size
        if self._reported > HEAD_BYTES_MAX:
            # The parser makes an error of its own of it, which uvicorn answers with 400.
            raise ValueError(_REFUSAL)
