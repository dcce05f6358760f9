"""Reads the body of an upstream's answer as it comes, and ends a wait that is too long."""

from __future__ import annotations

import asyncio

import aiohttp


class AnswerBody:
    """The body of one answer. Two clocks run: how long the upstream may be silent while somebody
    waits for more, and when all of it must be there.

    One timer watches both, and is not moved with each of a thousand parts: when it fires, it looks
    what is due and sleeps on. aiohttp's own, one a part, is off from here.
    """

    __slots__ = (
        *("_closed", "_content", "_deadline"),
        *("_loop", "_silence_s", "_timer", "_waits_since"),
    )

    def __init__(
        self, response: aiohttp.ClientResponse, *, silence_s: float, answer_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._content = response.content
        self._silence_s = silence_s
        self._deadline = self._loop.time() + answer_s
        self._waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        connection = response.connection  # None when all of the body is here already.
        protocol = None if connection is None else connection.protocol
        if protocol is not None:
            protocol.read_timeout = None
            protocol.start_timeout()
            self._closed = protocol.closed
        if self._closed is not None:
            self._closed.add_done_callback(self._tell)

    async def part(self) -> bytes:
        """The next bytes, or none at the end. Raises one of FAILURES, also after a silence."""
        now = self._loop.time()
        if now >= self._deadline:
            raise TimeoutError
        self._waits_since = now
        if self._timer is None:
            due = min(now + self._silence_s, self._deadline)
            self._timer = self._loop.call_at(due, self._look)
        try:
            return await self._content.readany()
        except RuntimeError:
            raise aiohttp.ClientPayloadError("the connection was given up") from None
        finally:
            self._waits_since = None

    def close(self) -> None:
        """Watch no more; again does nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed is not None:
            self._closed.remove_done_callback(self._tell)
            self._closed = None

    def _look(self) -> None:
        self._timer = None
        now, since = self._loop.time(), self._waits_since
        due = min((now if since is None else since) + self._silence_s, self._deadline)
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
        elif since is not None:
            self._content.set_exception(TimeoutError())
        # Else it is the deadline, and whoever asks for more is told so.

    def _tell(self, closed: asyncio.Future[None]) -> None:
        """aiohttp gives up a connection over which something came that is no HTTP, and does not
        tell who reads the body: they would wait to the end of their patience.
        """
        content = self._content
        if self._waits_since is None or content.is_eof() or content.exception() is not None:
            return  # Who asks for more after this is told by aiohttp itself.
        content.set_exception(aiohttp.ClientPayloadError("the connection was given up"))
