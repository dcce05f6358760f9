"""Sockets that send little or nothing, without any login: they are closed, and the service goes on,
also when it has few descriptors.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from support.hostile import Hostile
from support.processes import Running, running
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.api.web.connections import HEAD_WITHIN_S, REST_WITHIN_S, connection_limits
from taximeter.meter.wire.keys import ShardKeys

DESCRIPTORS = 256
HOSTILE = 300
SLACK_S = 20.0
"""What a busy machine may take beyond a deadline."""
EVERY_END = "the end of every socket"
CRLF = b"\r\n"
UNFINISHED = b"POST /v1/reserve HTTP/1.1\r\nHost: localhost\r\nX-Part: "
REFUSED_BODY = (
    b"POST /api/v1/llm/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"
)


@pytest.fixture(params=["sidecar", "api"])
async def served(
    request: pytest.FixtureRequest,
    redis: Redis,
    redis_url: str,
    app_database_url: str,
    tmp_path: Path,
) -> AsyncIterator[Running]:
    """A process of ours that may have 256 descriptors."""
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    settings: dict[str, Any] = {"redis_url": redis_url}
    if request.param == "api":
        settings |= {"database_url": app_database_url, "dev_mode": 1, "data_dir": tmp_path}
    async with running(request.param, "--port", "0", descriptors=DESCRIPTORS, **settings) as made:
        yield made


@contextlib.asynccontextmanager
async def hostile(url: str) -> AsyncIterator[Hostile]:
    made = Hostile(url)
    try:
        yield made
    finally:
        made.close()


async def answers(url: str) -> bool:
    """Whether somebody who comes now is served."""
    try:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            return (await client.get(f"{url}/openapi.json")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"", id="silent", marks=pytest.mark.whole),
        pytest.param(CRLF, id="empty lines", marks=pytest.mark.whole),
        pytest.param(UNFINISHED, id="half a head"),
    ],
)
async def test_more_idle_sockets_than_descriptors_do_not_stop_it(
    served: Running, first: bytes
) -> None:
    async with hostile(served.url) as crowd:
        await crowd.open(HOSTILE, first)
        # At once, while they are all there, and not only when their time is over.
        await eventually(lambda: answers(served.url), within_s=SLACK_S, what="an answer")
        for _ in range(5):
            crowd.drip(CRLF if first in (b"", CRLF) else b"x")
            assert await answers(served.url)

        async def all_closed() -> bool:
            return crowd.drip(CRLF if first in (b"", CRLF) else b"x") == 0

        within_s = HEAD_WITHIN_S + SLACK_S
        await eventually(all_closed, within_s=within_s, every_s=0.25, what=EVERY_END)
    assert served.process.returncode is None


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_slow_body_after_a_refusal_ends(served: Running) -> None:
    """Nobody waits for it any more: it was answered with 401, 404 or 415."""
    async with hostile(served.url) as crowd:
        await crowd.open(20, REFUSED_BODY)

        async def all_closed() -> bool:
            return crowd.drip(b" ") == 0

        within_s = REST_WITHIN_S + SLACK_S
        await eventually(all_closed, within_s=within_s, every_s=0.25, what=EVERY_END)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_an_idle_connection_between_requests_ends_whatever_it_drips(served: Running) -> None:
    async with hostile(served.url) as crowd:
        await crowd.open(20, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")

        async def all_closed() -> bool:
            return crowd.drip(CRLF) == 0

        within_s = HEAD_WITHIN_S + SLACK_S
        await eventually(all_closed, within_s=within_s, every_s=0.25, what=EVERY_END)


@pytest.mark.parametrize(
    ("descriptors", "others", "total"),
    [(256, 0, 128), (256, 200, 64), (64, 0, 16), (100_000, 200, 10_000)],
)
def test_limits_leave_room_for_what_a_process_needs_itself(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, others: int, total: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (descriptors, descriptors))
    # The real one would leave the tests that come after it without descriptors.
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    limits = connection_limits(others)
    assert limits.total == total
    assert limits.per_peer == total * 3 // 4
    assert connection_limits(others, per_peer=5).per_peer == 5
