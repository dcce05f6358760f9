"""Takes over a connection of redis-py once it is made: what is said on it is written and read here.

redis-py does what a URL asks for (TLS, sockets, users, Sentinel), once a connection. Its streams,
locks and time-outs would cost more than the rest of a call.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from taximeter.meter.places.places import asks as asks_first

_ASKING: Final = pack_command(("ASKING",))
_NOT_YET: Final = object()


class Line(asyncio.Protocol):
    """One connection, with one write in flight whose replies come in order. `asks` puts an ASKING
    before each call.

    Beside `ask` it has what our handshake uses of a redis-py connection.
    """

    def __init__(
        self, connection: Any, loop: asyncio.AbstractEventLoop, *, asks: bool = False
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._asks = asks
        self._is_told = False
        """Whether the next reply is to a call, and not to the ASKING before it."""
        self._refusal: Any = None
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_NOT_YET,
        )
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self.lost: Exception | None = None
        """Why nothing comes any more."""
        self.sent_at = float("inf")
        """When what is in flight was written."""
        self._transport = connection._writer.transport
        self._transport.set_protocol(self)

    def ask(self, calls: list[bytes]) -> asyncio.Future[None]:
        """Write packed calls in one piece. The future ends when all have a reply, or raises why
        they have not; `replies` are those that came.
        """
        if self._replies:
            self._replies = []  # Nobody may take them for replies to these calls.
            self.give_up(RedisConnectionError("a reply to what was not asked"))
        self._write(calls)
        return self._come(len(calls))

    @property
    def peer(self) -> tuple[str, int]:
        """Address of the server, where there are several."""
        return self._connection.host, int(self._connection.port)

    def replies(self) -> list[Any]:
        """What has come since it was asked last, in order; error replies as the exceptions that
        redis-py makes of them.
        """
        found, self._replies = self._replies, []
        return found

    def give_up(self, error: Exception) -> None:
        """Nothing that comes from now on is of use."""
        self._end(error)
        self._transport.abort()

    async def send_command(self, *arguments: Any) -> None:
        self._write([pack_command(tuple(arguments))])

    async def send_packed_command(
        self, calls: bytes | list[bytes], check_health: bool = False
    ) -> None:
        self._write([calls] if isinstance(calls, bytes) else calls)

    async def read_response(self, disable_decoding: bool = True) -> Any:
        if not self._replies:
            try:
                await self._come(1)
            except asyncio.CancelledError:
                # It may come yet, and would be taken for the reply to something else.
                self.give_up(RedisConnectionError("a reply was not waited for"))
                raise
        reply = self._replies.pop(0)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = True) -> None:
        await self._connection.disconnect(nowait=nowait)

    def data_received(self, data: bytes) -> None:
        if self.lost is not None:
            return
        reader, replies = self._reader, self._replies
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOT_YET:
                if self._asks and not self._answers_a_call(reply):
                    continue
                replies.append(self._refusal or reply)
        except RedisError as error:
            self.give_up(error)
            return
        if self._waiter is not None and len(replies) >= self._wanted:
            self.sent_at = float("inf")
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(RedisConnectionError(f"Connection closed by server. {error or ''}".rstrip()))

    def _answers_a_call(self, reply: Any) -> bool:
        self._is_told = not self._is_told
        if self._is_told:
            # Refused, it stands for the answer to the call: that is from a node that was not asked.
            self._refusal = reply if isinstance(reply, ResponseError) else None
        return not self._is_told

    def _write(self, calls: list[bytes]) -> None:
        if self.lost is not None:
            return  # Whoever waits for the answer learns of it.
        if self._asks:
            calls = [part for call in calls for part in (_ASKING, call)]
        self.sent_at = self._loop.time()
        self._transport.write(calls[0] if len(calls) == 1 else b"".join(calls))

    def _come(self, wanted: int) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self.lost is not None:
            waiter.set_exception(self.lost)
        else:
            self._wanted, self._waiter = wanted, waiter
        return waiter

    def _end(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            self.sent_at = float("inf")
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)


async def open_line(place: Any) -> Line:
    """A new connection to this server. Raises what redis-py raises."""
    connection: Any = place.connection_pool.make_connection()
    try:
        await connection.connect()
        return Line(connection, asyncio.get_running_loop(), asks=asks_first(place))
    except BaseException:
        await drop(connection)
        raise


async def drop(connection: Any) -> None:
    """Give up a connection, of redis-py or a line."""
    if connection is not None:
        with suppress(Exception):  # It is given up either way.
            await connection.disconnect(nowait=True)
