"""One account, or one organisation, that asks for far more than its part delays nobody else by it.

Order is looked at, and not time: after how many calls somebody is served.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.shard import ScriptedShard

from taximeter.meter import Meter, Overloaded, Receipt, TooManyForAccount
from taximeter.meter.lanes.fair_queue import FairQueue
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.operations import Operation

FLOOD = 5_000
BATCH = 50
LANES = 2


async def shard_of(redis: Redis, **users: int) -> ScriptedShard:
    """Shard 0 of one; `acme_ann=5` gives acme/ann five credits."""
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    for name, credits in users.items():
        await shard.load(name.replace("_", "/"), credits * 1000)
    return shard


async def calls_before(shard: ScriptedShard, account: str) -> list[int]:
    """For each event of the account, how many script calls with events came before its own."""
    entries = [text.split("-")[1] for text, *_ in await shard.events()]
    order = {entry: place for place, entry in enumerate(dict.fromkeys(entries))}
    return [order[event[0].split("-")[1]] for event in await shard.events() if event[2] == account]


@pytest.mark.parametrize(
    "flooding",
    [["acme/ann"], [f"acme/u{number}" for number in range(500)]],
    ids=["one account", "five hundred users of one organisation"],
)
async def test_a_flood_delays_others_by_no_more_than_a_round_of_calls(
    connect: object, redis: Redis, flooding: list[str]
) -> None:
    shard = await shard_of(redis, other_bob=1000)
    for account in flooding:
        await shard.load(account, FLOOD)
    meter: Meter = await connect(  # type: ignore[operator]
        batch_max=BATCH, lanes_per_server=LANES, take_timeout_s=60.0
    )
    flood = [
        asyncio.create_task(meter.charge(*flooding[number % len(flooding)].split("/"), 1))
        for number in range(FLOOD)
    ]
    await asyncio.sleep(0)  # All of them are queued now, and none is answered.
    calm = [asyncio.create_task(meter.charge("other", "bob", 1)) for _ in range(20)]
    await asyncio.gather(*calm)
    # Bob's twenty take turns with them, two in each pair, after what the calls before them take.
    assert sum(task.done() for task in flood) <= 6 * LANES * BATCH
    await asyncio.gather(*flood)
    places = await calls_before(shard, "other/bob")
    assert len(places) == 20
    assert max(places) <= 6 * LANES < FLOOD // BATCH
    assert await shard.account("other/bob") == (1_000_000 - 20, 0, 1)


async def test_within_an_organisation_a_user_does_not_wait_for_a_colleague(
    connect: object, redis: Redis
) -> None:
    shard = await shard_of(redis, acme_ann=1000, acme_bob=1000)
    meter: Meter = await connect(  # type: ignore[operator]
        batch_max=BATCH, lanes_per_server=LANES, take_timeout_s=60.0
    )
    flood = [asyncio.create_task(meter.charge("acme", "ann", 1)) for _ in range(FLOOD)]
    await asyncio.sleep(0)
    await meter.charge("acme", "bob", 1)
    assert sum(task.done() for task in flood) <= 4 * LANES * BATCH
    await asyncio.gather(*flood)
    assert await shard.account("acme/ann") == (1_000_000 - FLOOD, 0, 1)


async def test_a_queue_that_one_account_has_filled_has_room_for_others(
    connect: object, redis: Redis, redis_url: str
) -> None:
    shard = await shard_of(redis, acme_ann=1000, acme_bob=1000, other_cyd=1000)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(  # type: ignore[operator]
            url=proxy.url, queue_max=400, batch_max=10, lanes_per_server=1, take_timeout_s=60.0
        )
        await meter.charge("acme", "ann", 0)
        proxy.black_hole(True)
        flood = [asyncio.create_task(meter.charge("acme", "ann", 1)) for _ in range(600)]
        colleague = asyncio.create_task(meter.charge("acme", "bob", 1))
        stranger = asyncio.create_task(meter.charge("other", "cyd", 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in flood if task.done()]
        assert len(refused) == 200
        for task in refused:
            with pytest.raises(TooManyForAccount) as caught:
                await task
            assert caught.value.limit == "account"
        with pytest.raises(TooManyForAccount) as caught:
            await colleague
        assert caught.value.limit == "organization"
        proxy.heal()
        assert isinstance(await stranger, Receipt)
        taken = [task for task in flood if task not in refused]
        assert all(isinstance(receipt, Receipt) for receipt in await asyncio.gather(*taken))
    assert await shard.account("acme/ann") == (1_000_000 - len(taken), 0, 1)
    [(_, waiting, pressure)] = meter.pressure()
    assert waiting == 0
    assert pressure.refused == {"account": len(refused), "organization": 1, "queue": 0}
    assert sum(pressure.waits) >= len(taken) + 2


async def test_the_room_for_others_has_an_end(
    connect: object, redis: Redis, redis_url: str
) -> None:
    async with Proxy(redis_url) as proxy:
        await shard_of(redis, **{f"org{number}_u": 1 for number in range(100)})
        meter: Meter = await connect(  # type: ignore[operator]
            url=proxy.url, queue_max=20, batch_max=10, lanes_per_server=1, take_timeout_s=60.0
        )
        await meter.charge("org0", "u", 0)
        proxy.black_hole(True)
        calls = [asyncio.create_task(meter.charge(f"org{number}", "u", 1)) for number in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in calls if task.done()]
        assert {type(task.exception()) for task in refused} == {Overloaded}
        assert 100 - len(refused) <= 2 * 20 + 10
        proxy.heal()
        await asyncio.gather(*(task for task in calls if task not in refused))


async def test_an_account_has_no_more_waiting_than_it_may(
    connect: object, redis: Redis, redis_url: str
) -> None:
    await shard_of(redis, acme_ann=1000)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(  # type: ignore[operator]
            url=proxy.url, account_queue_max=30, batch_max=10, lanes_per_server=1
        )
        await meter.charge("acme", "ann", 0)
        proxy.black_hole(True)
        calls = [asyncio.create_task(meter.charge("acme", "ann", 1)) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        kinds = Counter(type(task.exception()) for task in calls if task.done())
        assert kinds == {TooManyForAccount: 100 - 30 - 2 * 10}
        proxy.heal()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_commits_and_releases_are_let_in_when_their_own_account_floods(
    connect: object, redis: Redis, redis_url: str
) -> None:
    """They give credits back or settle what was used: with them refused, holds would stay."""
    shard = await shard_of(redis, acme_ann=1000)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(  # type: ignore[operator]
            url=proxy.url,
            queue_max=30,
            account_queue_max=10,
            batch_max=10,
            lanes_per_server=1,
            take_timeout_s=60.0,
            resolve_timeout_s=60.0,
        )
        holds = [await meter.reserve("acme", "ann", 2) for _ in range(10)]
        proxy.black_hole(True)
        flood = [asyncio.create_task(meter.charge("acme", "ann", 1)) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in flood if task.done()]
        assert {type(task.exception()) for task in refused} == {TooManyForAccount}
        ends = [asyncio.create_task(hold.commit(1)) for hold in holds[:5]]
        ends += [asyncio.create_task(hold.release()) for hold in holds[5:]]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.exception() for task in ends if task.done()] == []
        proxy.heal()
        await asyncio.gather(*ends)
        taken = await asyncio.gather(*(task for task in flood if task not in refused))
    assert await shard.account("acme/ann") == (1_000_000 - 5 - len(taken), 0, 1)


async def test_turns_go_round_organisations_and_then_users() -> None:
    loop, crowd = asyncio.get_running_loop(), FairQueue()
    for name in ("a/x", "a/x", "a/x", "a/y", "b/z", "b/z"):
        crowd.add(Pending(Operation("charge", name, "a/r"), 0, 0, loop.create_future()))
    assert (crowd.waiting_of("a/x"), crowd.waiting_of("b/other")) == ((3, 4), (0, 2))
    order = [crowd.take().operation.account for _ in range(6)]
    assert order == ["a/x", "b/z", "a/y", "b/z", "a/x", "a/x"]
    assert crowd.waiting == 0
    with pytest.raises(IndexError):
        crowd.take()
