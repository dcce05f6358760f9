"""The bound on what waits for Postgres, and drains: no credit is taken, everything else goes on."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from support.shard import ScriptedShard, op, text

from taximeter.meter.wire.scripts import load_script


async def admit(shard: ScriptedShard, until: object, epoch: int = 1) -> str:
    args = [epoch, until, 1000]
    return text(await load_script("admit").call(shard.redis, [shard.keys.meta], args))


async def drain(shard: ScriptedShard, lasting_ms: object, epoch: int = 1) -> str:
    return text(
        await load_script("drain").call(shard.redis, [shard.keys.meta], [epoch, lasting_ms])
    )


async def test_credit_is_taken_until_the_backlog_is_full_and_holds_end_beyond_it(
    shard: ScriptedShard,
) -> None:
    assert await shard.batch(*[op("reserve", f"r{i}", 10) for i in range(3)])
    assert await admit(shard, 2) == "2"
    assert await shard.one("charge", "c1", 1) == "1 969 30"
    assert await shard.one("charge", "c2", 1) == "1 968 30"
    before = await shard.account()
    assert await shard.one("charge", "c3", 1) == "-7 backlog"
    assert await shard.one("reserve", "r9", 1) == "-7 backlog"
    assert await shard.account() == before
    # What was answered before is answered again, whatever is open ends, and the events go on.
    assert await shard.one("charge", "c1", 1) == "2 968 30 charged 0 1"
    assert await shard.one("reserve", "r0", 10) == "1 968 30"
    assert await shard.one("touch", "r1", 4) == "1 968 30"
    assert await shard.one("commit", "r0", 7) == "1 971 20"
    assert await shard.one("release", "r1") == "1 981 10"
    assert len(await shard.events()) == 3
    assert await admit(shard, 4) == "4"
    assert await shard.one("charge", "c3", 1) == "1 980 10"


async def test_only_what_takes_credit_in_a_batch_is_refused(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r0", 10)
    await drain(shard, 60_000)
    replies = await shard.batch(
        op("commit", "r0", 3), op("reserve", "r1", 1), op("charge", "c1", 1)
    )
    assert replies == ["1 997 0", "-7 drain", "-7 drain"]


async def test_a_drain_outlasts_admit_until_its_time_is_over(
    shard: ScriptedShard, redis: Redis
) -> None:
    await drain(shard, 60_000)
    assert await admit(shard, 100) == "0"
    assert await shard.one("charge", "c1", 1) == "-7 drain"
    await redis.hset(shard.keys.meta, "drain_until_ms", "1")  # its time is over
    assert await admit(shard, 100) == "100"
    assert await shard.one("charge", "c1", 1) == "1 999 0"


async def test_a_drain_ends_when_told(shard: ScriptedShard) -> None:
    await drain(shard, 60_000)
    await drain(shard, 0)
    assert await shard.one("charge", "c1", 1) == "1 999 0"


@pytest.mark.parametrize("until", ["0", "-1", "1.5", "nan", "", "9" * 16, "1e3"])
async def test_a_bad_number_is_refused(shard: ScriptedShard, until: str) -> None:
    with pytest.raises(ResponseError, match="MALFORMED"):
        await admit(shard, until)
    assert await shard.redis.hget(shard.keys.meta, "admit_until") is None


async def test_another_epoch_is_refused(shard: ScriptedShard) -> None:
    with pytest.raises(ResponseError, match="STALE_EPOCH"):
        await admit(shard, 5, epoch=2)
    with pytest.raises(ResponseError, match="STALE_EPOCH"):
        await drain(shard, 5, epoch=2)
    with pytest.raises(ResponseError, match="MALFORMED"):
        await drain(shard, "long")
