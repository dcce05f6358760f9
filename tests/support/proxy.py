"""A TCP proxy between a client and a server that does to a connection what networks do.

What it can do: lose replies, delay, slice into small pieces, reset, leave half open, hold
everything back (black hole). Bytes that pass are never changed and never out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from support.taking import Taking, closed

CHUNK_BYTES = 65_536


class _Connection:
    """The two sides of one connection, and what has happened to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.marked = False
        self.half_open = False
        self.swallowed = False

    def abort(self) -> None:
        for side in (self.client, self.server):
            with suppress(OSError):
                side.transport.abort()

    def close(self) -> None:
        """What was passed on before still arrives."""
        for side in (self.client, self.server):
            with suppress(OSError):
                side.close()


class Proxy:
    """Listens on a free loopback port and relays to `target` (host, port), which may be changed."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.target = (self._parts.hostname or "127.0.0.1", self._parts.port or 6379)
        self.replies_to_lose = 0
        self.lost = 0
        self.resets = 0
        """How often all connections were reset."""
        self.touched = 0
        """How often something was done to a connection or to a piece of what it carries."""
        self._marker = b""
        self._then: Callable[[], Awaitable[None]] | None = None
        self._late: list[bytes] | None = None
        self._late_marker = b""
        self._until_resets: Iterator[int] = iter(())
        self._until_reset = 0
        self._silent = False
        self._delay_s = 0.0
        self._slice_bytes = 0
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[_Connection] = set()
        self._taking = Taking(self._serve)

    @property
    def port(self) -> int:
        return self._taking.port

    @property
    def url(self) -> str:
        """The server's URL with our port in it."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def lose_replies(
        self,
        count: int,
        *,
        to: bytes = b"EVALSHA",
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Close the connection instead of passing on the next `count` replies to such a command;
        the client learns of it when `then` is over.
        """
        self.replies_to_lose, self._marker, self._then = count, to, then

    def withhold_request(
        self, marker: bytes, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Keep the next request with this in it, and close its connection when `then` is over:
        packets that were held up on the way. See `deliver`.
        """
        self._late, self._late_marker, self._then = [], marker, then

    async def deliver(self) -> int:
        """Let what was withheld arrive now; returns how many requests that were."""
        late, self._late = self._late or [], None
        for request in late:
            reader, writer = await asyncio.open_connection(*self.target)
            writer.write(request)
            await reader.read(CHUNK_BYTES)
            writer.close()
        return len(late)

    def reset_all(self) -> int:
        """Reset every connection; returns how many there were."""
        count = len(self._connections)
        self.touched += count
        self.resets += 1
        for connection in list(self._connections):
            connection.abort()
        return count

    def reset_by_count(self, pauses: Iterable[int]) -> None:
        """Reset every connection each time that so many replies have come from the server, by the
        numbers of `pauses`, until there are no more. Every other time the last of them is passed
        on first. Counted, not timed: so it is as often on a machine of any speed.
        """
        self._until_resets = iter(pauses)
        self._until_reset = next(self._until_resets, 0)

    def silence(self, silent: bool) -> None:
        """Swallow all replies while true: the connection stays open and nothing comes back."""
        self._silent = silent

    def delay(self, seconds: float) -> None:
        """Pass on every piece this much later, in both directions."""
        self._delay_s = seconds

    def slice(self, piece_bytes: int) -> None:
        """Pass on pieces of at most so many bytes, each in a packet of its own; 0 is no limit."""
        self._slice_bytes = piece_bytes

    def black_hole(self, closed: bool) -> None:
        """Let nothing through in either direction while true; it arrives late, after that."""
        if closed:
            self._open.clear()
        else:
            self._open.set()

    def half_open(self) -> int:
        """The server's side of every connection ends, and the client is not told."""
        count = len(self._connections)
        self.touched += count
        for connection in list(self._connections):
            connection.half_open = True
            with suppress(OSError):
                connection.server.transport.abort()
        return count

    def heal(self) -> None:
        """Be a plain wire again. A connection that has swallowed bytes cannot go on: it is
        reset.
        """
        self.replies_to_lose, self._silent, self._delay_s, self._slice_bytes = 0, False, 0.0, 0
        self._until_reset = 0
        for connection in list(self._connections):
            if connection.swallowed or connection.half_open:
                connection.abort()
        self._open.set()

    async def __aenter__(self) -> Proxy:
        await self._taking.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._taking.__aexit__(*error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, up_writer)
        self._connections.add(connection)
        requests = asyncio.ensure_future(self._requests(connection, reader))
        replies = asyncio.ensure_future(self._replies(connection, up_reader))
        try:
            await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
            if connection.half_open:
                await requests
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            for pump in (requests, replies):
                pump.cancel()
            self._connections.discard(connection)
            connection.close()
            await asyncio.gather(requests, replies, return_exceptions=True)
            await closed(up_writer)

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if connection.half_open:
                continue
            if self._late == [] and self._late_marker in data:
                self._late.append(data)
                self.touched += 1
                await self._do_then()
                return
            connection.marked |= bool(self._marker) and self._marker in data
            try:
                await self._pass_on(data, connection.server)
            except OSError:
                if not connection.half_open:
                    raise

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if connection.marked and self.replies_to_lose > 0:
                self.replies_to_lose -= 1
                self.lost += 1
                self.touched += 1
                await self._do_then()
                return
            connection.marked = False
            if self._until_reset:
                self._until_reset -= 1
                if not self._until_reset:
                    self._until_reset = next(self._until_resets, 0)
                    if self.resets % 2:
                        await self._pass_on(data, connection.client)
                    self.reset_all()
                    return
            if self._silent or connection.swallowed:
                connection.swallowed = True
                self.lost += 1
                self.touched += 1
            else:
                await self._pass_on(data, connection.client)

    async def _do_then(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            await then()

    async def _pass_on(self, data: bytes, to: asyncio.StreamWriter) -> None:
        self.touched += bool(self._delay_s or self._slice_bytes or not self._open.is_set())
        await self._open.wait()
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        size = self._slice_bytes or len(data)
        for start in range(0, len(data), size):
            to.write(data[start : start + size])
            await to.drain()
            if self._slice_bytes:
                await asyncio.sleep(0)
