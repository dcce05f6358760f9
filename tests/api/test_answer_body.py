"""The body of an upstream's answer: waits end, who is slow to read is not blamed, and a part of
thousands costs no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.taking import Taking
from support.waiting import eventually

from taximeter.api.upstreams.answer_body import AnswerBody
from taximeter.api.upstreams.config import UpstreamConfig
from taximeter.api.upstreams.upstream import Upstream

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Dictated:
    """A provider that begins an answer at once and sends a part when it is told to."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        self.writer = writer
        await reader.read()

    def send(self, part: bytes) -> None:
        assert self.writer is not None
        self.writer.write(b"%x\r\n%b\r\n" % (len(part), part))


@asynccontextmanager
async def answering(silence_s: float) -> AsyncIterator[tuple[Dictated, AnswerBody]]:
    provider = Dictated()
    async with Taking(provider.serve) as server:
        config = UpstreamConfig.model_validate(
            {"name": "one", "base_url": f"{server.url}/v1", "silence_timeout_s": silence_s}
        )
        async with Upstream.open(config) as upstream:
            opened = await upstream.send("/chat/completions", b"{}", {}, ("acme", "ann"))
            try:
                yield provider, opened.body
            finally:
                opened.close()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """Starts to note the moment of every timer that this loop is given."""

    def start() -> list[float]:
        loop, due = asyncio.get_running_loop(), []
        original = loop.call_at

        def noting(when: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
            due.append(when)
            return original(when, *arguments, **named)

        monkeypatch.setattr(loop, "call_at", noting)  # call_later comes here too.
        return due

    return start


async def test_a_silent_upstream_is_waited_for_no_longer() -> None:
    async with answering(silence_s=0.05) as (provider, body):
        provider.send(b"one")
        assert await body.part() == b"one"
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError):
                await body.part()


async def test_parts_cost_no_timer(timers: Callable[[], list[float]]) -> None:
    """One watches the whole answer. A part must not stop and start one: that was a third of what a
    chunk of a stream cost.
    """
    async with answering(silence_s=120.0) as (provider, body):
        provider.send(b"one")
        assert await body.part() == b"one"
        due = timers()
        for number in range(100):
            provider.send(b"%d" % number)
            assert await body.part() == b"%d" % number
        assert due == []


async def test_who_reads_late_does_not_make_the_upstream_silent(
    timers: Callable[[], list[float]],
) -> None:
    """A caller that takes its time, as long as nobody waits for the upstream, costs it nothing."""
    async with answering(silence_s=0.05) as (provider, body):
        due = timers()
        provider.send(b"one")
        assert await body.part() == b"one"

        async def several_silences_have_passed() -> bool:
            # All but the first are of the watch that looks, finds nobody waiting and goes on.
            return len({when for when in due if when > due[0] + 0.05}) > 20

        await eventually(several_silences_have_passed)
        provider.send(b"two")
        assert await body.part() == b"two"


async def test_nothing_is_watched_after_the_end() -> None:
    """Answers come and go by the million: what watched one must go with it."""
    async with answering(silence_s=0.05) as (provider, body):
        provider.send(b"one")
        assert await body.part() == b"one"
        body.close()
        body.close()
        assert body._timer is None
        assert body._closed is None
