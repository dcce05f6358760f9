"""Callers of one moment share a script call; queues and calls are bounded; nothing is overspent."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.shard import ScriptedShard

from taximeter.meter import InsufficientCredits, Meter, Overloaded, Receipt
from taximeter.meter.wire.keys import ShardKeys, shard_of


async def script_calls(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


async def test_concurrent_callers_share_calls(meter: Meter, shard: ScriptedShard) -> None:
    await meter.charge("org", "u", 0)
    before = await script_calls(shard.redis)
    await asyncio.gather(*[meter.charge("org", "u", 1) for _ in range(500)])
    assert await script_calls(shard.redis) - before <= 500 / 20
    assert await shard.account() == (500, 0, 1)


async def test_batches_are_bounded(connect: object, shard: ScriptedShard) -> None:
    meter: Meter = await connect(batch_max=7)  # type: ignore[operator]
    await asyncio.gather(*[meter.charge("org", "u", 1) for _ in range(100)])
    entries = await shard.redis.xrange(shard.keys.events)
    sizes = [len(fields[b"v1"].split(b"\n")) for _, fields in entries]
    assert sum(sizes) == 100
    assert max(sizes) <= 7


async def test_a_full_queue_refuses_at_once_and_loses_nothing(
    connect: object, shard: ScriptedShard, redis_url: str
) -> None:
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(url=proxy.url, queue_max=20, take_timeout_s=30.0)  # type: ignore[operator]
        await meter.charge("org", "u", 1, request_id="first")
        proxy.silence(True)
        calls = [asyncio.create_task(meter.charge("org", "u", 1)) for _ in range(600)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in calls if task.done()]
        assert refused, "a queue of 20 cannot take 600 callers"
        for task in refused:
            with pytest.raises(Overloaded):
                await task
        proxy.silence(False)
        done = await asyncio.gather(*[task for task in calls if task not in refused])
    assert all(isinstance(receipt, Receipt) for receipt in done)
    assert await shard.account() == (1000 - 1 - len(done), 0, 1)


@pytest.mark.parametrize("shards", [1, 4])
async def test_ten_thousand_charges_against_a_balance_for_seven_thousand(
    connect: object, redis: Redis, shards: int
) -> None:
    """The promise to the organisation: exactly what was bought can be spent, whatever the rush."""
    opened = [ScriptedShard(redis, ShardKeys("tm", number)) for number in range(shards)]
    for each in opened:
        await each.open(shards=shards)
    mine = opened[shard_of("org", shards)]
    await mine.load("org/u", 7000 * 3)
    meter: Meter = await connect()  # type: ignore[operator]
    results = await asyncio.gather(
        *[meter.charge("org", "u", 3) for _ in range(10_000)], return_exceptions=True
    )
    kinds = Counter(type(result) for result in results)
    assert kinds == {Receipt: 7000, InsufficientCredits: 3000}
    assert await mine.account() == (0, 0, 1)
    assert len(await mine.events()) == 7000


async def test_reserves_and_commits_of_many_users_add_up(connect: object, redis: Redis) -> None:
    opened = [ScriptedShard(redis, ShardKeys("tm", number)) for number in range(3)]
    for each in opened:
        await each.open(shards=3)
    organisations = [f"org{number}" for number in range(10)]
    for org_id in organisations:
        for user in range(5):
            await opened[shard_of(org_id, 3)].load(f"{org_id}/u{user}", 10_000)
    # The disk may be busy with what other tests do: this is about sums, not about time.
    meter: Meter = await connect(lanes_per_server=3, take_timeout_s=20.0)  # type: ignore[operator]

    async def request(number: int) -> None:
        org_id, user_id = organisations[number % 10], f"u{number % 5}"
        hold = await meter.reserve(org_id, user_id, 50)
        await hold.commit(number % 60)

    await asyncio.gather(*[request(number) for number in range(2000)])
    charged = [event for each in opened for event in await each.events()]
    assert len(charged) == 2000
    assert sum(int(event[4]) for event in charged) == sum(number % 60 for number in range(2000))
    left = 0
    for each in opened:
        for account in await redis.hkeys(each.keys.accounts):
            left += (await each.account(account.decode()))[0]
    assert left == 50 * 10_000 - sum(number % 60 for number in range(2000))
