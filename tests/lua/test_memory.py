"""Out of memory: what takes credit is refused whole, what resolves holds goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from support.shard import FULL, ScriptedShard, op

from taximeter.meter.wire.keys import ShardKeys


@pytest.fixture
async def full(valkey_server: Callable[..., Any]) -> AsyncIterator[ScriptedShard]:
    """A shard with an open hold, on a server whose memory is used up."""
    server = valkey_server("--maxmemory", "0", "--maxmemory-policy", "noeviction")
    redis = Redis.from_url(server.url)
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    await shard.batch(*[op("reserve", f"r{i}", 10) for i in range(4)])
    await redis.config_set("maxmemory", FULL)
    yield shard
    await redis.aclose()


@pytest.mark.parametrize(
    "operations", [[op("reserve", "n", 1)], [op("charge", "n", 1)], [op("commit", "r0", 1)]]
)
async def test_operate_is_refused_without_a_trace(
    full: ScriptedShard, operations: list[Any]
) -> None:
    before = await full.state()
    with pytest.raises(OutOfMemoryError):
        await full.batch(*operations)
    assert await full.state() == before


async def test_what_resolves_holds_still_works(full: ScriptedShard) -> None:
    assert await full.one("commit", "r0", 4, script="resolve") == "1 966 30"
    assert await full.one("release", "r1", script="resolve") == "1 976 20"
    assert await full.one("touch", "r2", 3, script="resolve") == "1 976 20"
    await full.redis.config_set("maxmemory", "0")
    await full.overdue("r2")  # the test's own ZADD needs memory; the sweep does not
    await full.redis.config_set("maxmemory", FULL)
    assert await full.sweep() == [1, 1, 0]
    assert await full.apply(("org/u", 2, 5)) == ["1 2"]
    assert await full.account() == (988, 10, 2)
    assert (await full.snapshot("org/u"))[5] == [b"988 10 2"]
    assert [event[1] for event in await full.events()] == ["commit", "expire"]


async def test_a_missing_account_is_not_loaded(full: ScriptedShard) -> None:
    with pytest.raises(OutOfMemoryError):
        await full.load("org/new", 5)
