"""A small HTTP/1.1 load generator: keep-alive, one request at a time on each connection."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

from bench.harness import BenchFailed, open_loop

GRACE_S: Final = 30.0
_ANSWER_TEXT_MAX: Final = 300
_CHUNKED: Final = b"transfer-encoding: chunked"
_LENGTH: Final = b"content-length:"


@dataclass(slots=True)
class Load:
    """What a load came to. Each answer had status 200."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    """Seconds of every answer that ended in time, to its last byte; the first counts anyway."""

    @property
    def per_second(self) -> float:
        return len(self.times) / self.seconds


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A POST of JSON, as it goes over the wire."""
    parts = urlsplit(url)
    lines = [
        f"POST {parts.path or '/'} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {text}" for name, text in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again until the end."""

    def __init__(self, make: Callable[[], bytes], load: Load, end: float) -> None:
        self._make = make
        self._load = load
        self._end = end
        self._received = bytearray()
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not _is_whole(self._received):
            return
        now = time.perf_counter()
        if not self._received.startswith(b"HTTP/1.1 200"):
            text = bytes(self._received[-_ANSWER_TEXT_MAX:]).decode(errors="replace")
            self.close(BenchFailed(f"a request was answered: {text}"))
            return
        if now <= self._end:
            self._load.times.append(now - self._sent_at)
        elif not self._load.times:  # The only one: it has taken all the time and more.
            self._load.times.append(now - self._sent_at)
            self._load.seconds += now - self._end
        self._received.clear()
        if now < self._end:
            self._send()
        else:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(BenchFailed(f"the server closed a connection: {error}"))

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self._make())

    def close(self, error: BenchFailed | None = None) -> None:
        """Send no more."""
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        if self._transport is not None:
            self._transport.close()


def _is_whole(received: bytearray) -> bool:
    """Whether the headers and all of the body are there."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    head = bytes(received[:head_end]).lower()
    at = head.find(_LENGTH)
    if at >= 0:
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        return len(received) >= head_end + 4 + length
    if _CHUNKED in head:
        return received.endswith(b"\r\n0\r\n\r\n")
    raise BenchFailed("an answer has neither a length nor chunks")


async def drive(
    url: str, makers: list[Callable[[], bytes]], *, connections: int, seconds: float
) -> Load:
    """Keep `connections` busy for that long; they take turns with the makers of requests."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    load = Load(seconds)
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + seconds
    opened: list[Connection] = []
    try:
        for number in range(connections):
            make = makers[number % len(makers)]

            def protocol(make: Callable[[], bytes] = make) -> Connection:
                return Connection(make, load, end)

            _, connection = await loop.create_connection(protocol, parts.hostname, parts.port)
            opened.append(connection)
        async with asyncio.timeout(seconds + GRACE_S):
            await asyncio.gather(*(one.ended for one in opened))
    except TimeoutError:
        raise BenchFailed(f"{url} left requests without an answer") from None
    finally:
        for connection in opened:
            connection.close()
    return load


class _Asked(asyncio.Protocol):
    """A connection that is asked one thing at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answer is None or self._answer.done() or not _is_whole(self._received):
            return
        if self._received.startswith(b"HTTP/1.1 200"):
            self._answer.set_result(None)
        else:
            text = bytes(self._received[-_ANSWER_TEXT_MAX:]).decode(errors="replace")
            self._answer.set_exception(BenchFailed(f"a request was answered: {text}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BenchFailed(f"the server closed a connection: {error}"))

    async def ask(self, request: bytes) -> None:
        """Until the whole answer is there."""
        assert self._transport is not None
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def drive_open(
    url: str, makers: list[Callable[[], bytes]], *, per_second: float, seconds: float
) -> Load:
    """Send at a fixed rate, whatever became of the requests before; each time counts from when its
    request was due. A connection has one request at a time, so there are as many as it takes.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    host, port = parts.hostname, parts.port
    load, loop = Load(), asyncio.get_running_loop()
    turns, idle, opened = itertools.cycle(makers), list[_Asked](), list[_Asked]()

    async def launch(due: float) -> None:
        if idle:
            connection = idle.pop()
        else:
            _, connection = await loop.create_connection(_Asked, host, port)
            opened.append(connection)
        await connection.ask(next(turns)())
        load.times.append(time.perf_counter() - due)
        idle.append(connection)

    try:
        await open_loop(launch, per_second=per_second, seconds=seconds)
    finally:
        for connection in opened:
            connection.close()
    load.seconds = seconds
    return load
