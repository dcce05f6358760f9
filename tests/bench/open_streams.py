"""The LLM route with many open streams: memory of one, how late chunks leave, and what it does to
the chunks of others.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, cast
from urllib.parse import urlsplit

from bench.gateway import running_gateway
from bench.harness import BenchFailed, Figure, Side, Spread, Target, percentile, take_turns, value
from bench.histogram import Histogram
from bench.latency import PARTS, every
from bench.servers import Servers
from bench.ticks import Ticks
from bench.worker import cpu_seconds, resident_mb
from taximeter.api.embedded.machine import LOOPBACK

FEW: Final = 100
CHUNKS_PER_SECOND: Final = 1_000
CHUNK_P99_MS: Final = 1.0
STREAM_BYTES_MAX: Final = 40_000
GROWTH: Final = 1.15
_OPENING: Final = 50
"""Streams that are opened at a time."""
_OPEN_S_MAX: Final = 300.0
_TICK_S: Final = 0.001
_STAMP: Final = re.compile(rb"@(\d+)@")
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class _Answering(asyncio.Protocol):
    """A provider's end of a connection: every request is answered by a stream that stays open."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        found = re.search(rb"content-length: *(\d+)", self._received[:head_end], re.IGNORECASE)
        if found is None or len(self._received) < head_end + 4 + int(found[1]):
            return
        self._received.clear()
        assert self.transport is not None
        self.transport.write(_HEAD)
        self._upstream.streams.append(self)
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def send(self) -> None:
        """One more chunk, that says when."""
        text = f"@{time.perf_counter_ns()}@"
        self._write(_event(f'[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]'))

    def end(self) -> None:
        """The rest of the answer."""
        finish = '[{"index":0,"delta":{},"finish_reason":"stop"}]'
        usage = '{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}'
        self._write(_event(finish) + _event("[]", usage) + b"data: [DONE]\n\n")
        self._write(b"")

    def _write(self, text: bytes) -> None:
        if self.transport is not None:
            self.transport.write(b"%x\r\n%b\r\n" % (len(text), text))


def _event(choices: str, usage: str = "null") -> bytes:
    return (
        'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,'
        f'"model":"gpt-4o-mini","choices":{choices},"usage":{usage}}}\n\n'
    ).encode()


class Upstream:
    """A provider in this process, so that one clock stamps chunks and sees them come."""

    def __init__(self) -> None:
        self.streams: list[_Answering] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its base URL, until the block ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Answering(self), LOOPBACK, 0, backlog=1_024)
        try:
            yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            for stream in self.streams:
                if stream.transport is not None:
                    stream.transport.abort()

    async def send(self, seconds: float) -> None:
        """CHUNKS_PER_SECOND over all streams in turn, for so long."""
        turns = itertools.cycle(self.streams)
        sent, ticked = 0, False
        begun = time.perf_counter()
        with Ticks(_TICK_S) as ticks:
            while (now := time.perf_counter() - begun) < seconds or not ticked:
                due = int(min(now, seconds) * CHUNKS_PER_SECOND)
                for stream in itertools.islice(turns, due - sent):
                    stream.send()
                sent = max(sent, due)
                await ticks.wait()
                ticked = True

    async def step(self, chunks: int, callers: Callers) -> None:
        """So many chunks over all streams in turn, each when the one before has come to its
        caller: what they cost does not depend on how many wait for whoever is late.
        """
        for stream in itertools.islice(itertools.cycle(self.streams), chunks):
            callers.arrived.clear()
            stream.send()
            await callers.arrived.wait()


class _Reading(asyncio.Protocol):
    """A caller: sends its request, and notes how old each chunk is when it comes."""

    def __init__(self, request: bytes, seen: list[float], arrived: asyncio.Event) -> None:
        self._request = request
        self.seen = seen
        self._arrived = arrived
        self._rest = b""
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        data = self._rest + data
        end = 0
        for found in _STAMP.finditer(data):
            self.seen.append((now - int(found[1])) / 1e9)
            end = found.end()
            self._arrived.set()
            if not self.begun.done():
                self.begun.set_result(None)
        self._rest = data[end:][-256:]
        if self._rest.endswith(b"\r\n0\r\n\r\n") and not self.ended.done():
            self.ended.set_result(None)
        if not self.begun.done() and not data.startswith(b"HTTP/1.1 200"):
            self.begun.set_exception(BenchFailed(f"a stream was answered: {data[-300:]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_exception(BenchFailed(f"a stream was cut: {error}"))


class Callers:
    """Connections of callers, each with an open stream."""

    def __init__(self, url: str, requests: list[bytes]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._requests = itertools.cycle(requests)
        self._open: list[_Reading] = []
        self.seen: list[float] = []
        self.arrived = asyncio.Event()

    async def open(self, count: int) -> None:
        """So many more. Raises BenchFailed for one that is refused."""
        async with asyncio.timeout(_OPEN_S_MAX):
            for _ in range(0, count, _OPENING):
                made = [self._one() for _ in range(min(_OPENING, count))]
                self._open += await asyncio.gather(*made)

    async def _one(self) -> _Reading:
        loop = asyncio.get_running_loop()
        request = next(self._requests)
        _, reading = await loop.create_connection(
            lambda: _Reading(request, self.seen, self.arrived), self._host, self._port
        )
        await reading.begun
        return reading

    def take(self) -> list[float]:
        """What was seen since the last time."""
        seen = self.seen.copy()
        self.seen.clear()
        return seen

    async def end(self, upstream: Upstream) -> None:
        """Let all streams come to their ends."""
        for stream in upstream.streams:
            stream.end()
        async with asyncio.timeout(_OPEN_S_MAX):
            await asyncio.gather(*(one.ended for one in self._open))
        upstream.streams.clear()

    def close(self) -> None:
        """Hang up."""
        for one in self._open:
            one.begun.cancel()
            one.ended.cancel()
            if one.transport is not None:
                one.transport.abort()
        self._open.clear()


async def run(servers: Servers) -> list[Figure]:
    """Chunks go through FEW streams, in turn with chunks that callers have from the provider
    itself; then as many a second through all of `open_streams`.
    """
    scale = servers.scale
    upstream, provider = Upstream(), Upstream()
    streams = scale.open_streams + FEW
    async with upstream.listening() as url, provider.listening() as direct_url:
        settings = {
            "TAXIMETER_UPSTREAM_BASE_URL": url,
            # An organisation has three in four of them at most, and these are of one.
            "TAXIMETER_LLM_REQUESTS_MAX": str(2 * streams),
            "TAXIMETER_UPSTREAM_CONNECTIONS_MAX": str(3 * streams // 2),
        }
        async with running_gateway(servers, settings) as gateway:
            requests = [make() for make in gateway.routed(stream=True)]
            with (
                _callers(gateway.api_url, requests) as routed,
                _callers(direct_url, [make() for make in gateway.direct(stream=True)]) as direct,
            ):
                await routed.open(FEW)
                await direct.open(FEW)
                few = await _rounds(servers, upstream, routed, provider, direct)
                few_us = await _processor(servers, upstream, routed, gateway.api_pid)
                # What a first stream of its kind makes is there; what is measured is one more.
                before = resident_mb(gateway.api_pid)
                await routed.open(scale.open_streams)
                grown = resident_mb(gateway.api_pid) - before
                many = await _rounds(servers, upstream, routed, provider, direct)
                many_us = await _processor(servers, upstream, routed, gateway.api_pid)
                await routed.end(upstream)
                await direct.end(provider)
    many_streams = f"{scale.open_streams:,}"
    return [
        Figure(
            "open_stream_memory",
            f"memory of one of {many_streams} open streams",
            "B",
            value(grown * 1e6 / scale.open_streams),
            target=Target(STREAM_BYTES_MAX, "at most", "value"),
            number=7,
        ),
        Figure(
            "open_streams_processor",
            f"processor of the API, a chunk, {many_streams} more streams",
            "µs",
            many_us,
            few_us,
            f"{FEW} streams",
            number=7,
        ),
        *_delays("few", f"a chunk of {FEW} streams, until its caller has it", few, scale.rounds),
        *_delays("many", f"the same with {many_streams} more", many, scale.rounds),
        Figure(
            "open_streams_growth",
            f"p99 of a chunk's way, {many_streams} more streams",
            "ms",
            _p99(many["routed"], scale.rounds),
            _p99(few["routed"], scale.rounds),
            f"{FEW} streams",
            Target(GROWTH, "at most"),
            number=7,
        ),
    ]


@contextmanager
def _callers(url: str, requests: list[bytes]) -> Iterator[Callers]:
    callers = Callers(url, requests)
    try:
        yield callers
    finally:
        callers.close()


async def _rounds(
    servers: Servers, upstream: Upstream, routed: Callers, provider: Upstream, direct: Callers
) -> dict[str, list[list[float]]]:
    """Seconds of every chunk's way, by side and round; short rounds of the start come first."""
    seen: dict[str, list[list[float]]] = {"direct": [], "routed": []}

    def side(name: str, sender: Upstream, callers: Callers) -> Side:
        async def run(seconds: float) -> float:
            callers.take()
            await sender.send(seconds)
            seen[name].append(callers.take())
            return float(len(seen[name][-1]))

        return run

    scale = servers.scale
    await take_turns(
        {"direct": side("direct", provider, direct), "routed": side("routed", upstream, routed)},
        rounds=scale.rounds,
        seconds=scale.round_s,
        warm_up_s=scale.warm_up_s,
    )
    return seen


async def _processor(servers: Servers, upstream: Upstream, routed: Callers, pid: int) -> Spread:
    """Microseconds of the API's processor that a chunk takes, sent one by one."""
    rounds = []
    chunks = round(CHUNKS_PER_SECOND * servers.scale.round_s)
    for _ in range(servers.scale.rounds):
        before = cpu_seconds(pid)
        await upstream.step(chunks, routed)
        rounds.append(1e6 * (cpu_seconds(pid) - before) / chunks)
    routed.take()
    return Spread(tuple(rounds))


def _p99(rounds: list[list[float]], count: int) -> Spread:
    return Spread(tuple(percentile(one, PARTS["p99"]) * 1000 for one in rounds[-count:]))


def _delays(
    name: str, title: str, rounds: dict[str, list[list[float]]], count: int
) -> Iterator[Figure]:
    routed, direct = rounds["routed"][-count:], rounds["direct"][-count:]
    yield Figure(
        f"open_streams_{name}_p99",
        f"{title}: p99",
        "ms",
        _p99(routed, count),
        _p99(direct, count),
        "from the provider itself",
        Target(CHUNK_P99_MS, "at most", "value", "python"),
        number=7,
        times=(Histogram.of(title, every(routed)), Histogram.of("directly", every(direct))),
    )
