"""Lost replies, restarts, fences and full memory: every charge happens once or not at all."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.shard import FULL, ScriptedShard
from support.waiting import answered, eventually

from taximeter.meter import (
    Balance,
    InsufficientCredits,
    LoadedAccount,
    Meter,
    MeterSettings,
    OutcomeUnknown,
    RequestReplayed,
    ShardFenced,
    StoreError,
    StoreOutOfMemory,
    StoreUnavailable,
)
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.meter.wire.scripts import load_script


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as made:
        yield made


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_lost_reply_is_retried_under_the_same_id(
    connect: Any, shard: ScriptedShard, proxy: Proxy, lost: int
) -> None:
    """The client library's own retry would run the script again blindly; ours asks by id."""
    meter: Meter = await connect(url=proxy.url, lanes_per_server=1)
    await meter.charge("org", "u", 1, request_id="warm")
    proxy.lose_replies(lost)
    receipt = await meter.charge("org", "u", 10, request_id="once")
    assert proxy.lost == lost
    assert receipt.charged == 10
    assert [event[3] for event in await shard.events()] == ["org/warm", "org/once"]
    assert await shard.account() == (989, 0, 1)


async def test_a_primary_that_was_made_a_replica_is_asked_again(
    connect: Any, shard: ScriptedShard
) -> None:
    """READONLY is no answer for good, on connections that were there before as on new ones."""
    meter: Meter = await connect()
    hasty: Meter = await connect(take_timeout_s=0.5)
    await meter.charge("org", "u", 1, request_id="before")
    await shard.redis.config_resetstat()

    async def is_met() -> bool:
        return "errorstat_READONLY" in await shard.redis.info("errorstats")

    try:
        await shard.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        charging = asyncio.create_task(meter.charge("org", "u", 10, request_id="once"))
        await eventually(is_met, what="READONLY")
        with pytest.raises(StoreUnavailable, match=r"(?i)read.?only"):
            await hasty.charge("org", "u", 1, request_id="refused")
        assert not charging.done()
    finally:
        await shard.redis.execute_command("REPLICAOF", "NO", "ONE")
    assert (await charging).charged == 10
    assert [event[3] for event in await shard.events()] == ["org/before", "org/once"]
    assert await shard.account() == (989, 0, 1)


async def test_a_reserve_whose_reply_was_lost_still_belongs_to_its_caller(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    meter: Meter = await connect(url=proxy.url, lanes_per_server=1)
    await meter.charge("org", "u", 0)
    proxy.lose_replies(2)
    hold = await meter.reserve("org", "u", 300, request_id="r")
    assert proxy.lost == 2
    assert (hold.available, hold.held) == (700, 300)
    other: Meter = await connect()
    with pytest.raises(RequestReplayed):
        await other.reserve("org", "u", 300, request_id="r")
    assert (await hold.commit(5)).charged == 5
    assert await shard.account() == (995, 0, 1)


async def test_no_reply_at_all_is_an_unknown_outcome_that_a_repeat_resolves(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    meter: Meter = await answered(
        lambda: connect(url=proxy.url, lanes_per_server=1, take_timeout_s=0.3, call_timeout_s=0.1)
    )
    await answered(lambda: meter.charge("org", "u", 0, request_id="warm"))
    proxy.silence(True)
    with pytest.raises(OutcomeUnknown, match="repeat the request id"):
        await meter.charge("org", "u", 10, request_id="r")
    proxy.silence(False)
    proxy.reset_all()
    assert (await answered(lambda: meter.charge("org", "u", 10, request_id="r"))).replayed
    assert await shard.account() == (990, 0, 1)


async def test_a_server_that_does_not_answer_who_connects_is_unavailable(
    shard: ScriptedShard, proxy: Proxy
) -> None:
    proxy.silence(True)
    settings = MeterSettings(take_timeout_s=0.2)
    with pytest.raises(StoreUnavailable, match="cannot reach Redis: TimeoutError"):
        await Meter.connect(proxy.url, settings=settings)


async def test_a_silent_server_does_not_hang_a_balance(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    meter: Meter = await answered(lambda: connect(url=proxy.url, call_timeout_s=0.2))
    assert await answered(lambda: meter.balance("org", "u")) == Balance(1000, 0)
    proxy.silence(True)
    with pytest.raises(StoreUnavailable):
        await meter.balance("org", "u")


async def test_the_library_repeats_nothing_of_its_own_accord(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    """Who knows what a call does decides whether it is sent again: here nobody asked for it."""
    meter: Meter = await connect(url=proxy.url)
    proxy.lose_replies(1)
    with pytest.raises(StoreUnavailable):
        await meter.balance("org", "u")
    assert proxy.lost == 1
    assert await meter.balance("org", "u") == Balance(1000, 0)


async def test_a_server_that_is_away_was_sent_nothing(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    meter: Meter = await connect(url=proxy.url, take_timeout_s=0.2)
    target, proxy.target = proxy.target, ("127.0.0.1", 1)
    proxy.reset_all()
    with pytest.raises(StoreUnavailable):
        await meter.reserve("org", "u", 10, request_id="r")
    proxy.target = target

    async def reserved() -> bool:
        try:
            return (await meter.reserve("org", "u", 10, request_id="r")).held == 10
        except RequestReplayed:  # A busy machine was late with the answer.
            return True

    assert await answered(reserved)
    assert await shard.account() == (990, 10, 1)


async def test_random_resets_charge_everything_once(
    connect: Any, shard: ScriptedShard, proxy: Proxy
) -> None:
    """By the count of replies, before and after they are passed on: not by a clock."""
    meter: Meter = await connect(url=proxy.url, take_timeout_s=50.0, batch_max=5)
    chance = random.Random(1)
    resets_before = proxy.resets
    # A connection's greetings are two of these replies, so that calls get through now and then.
    proxy.reset_by_count(chance.randint(3, 10) for _ in itertools.count())

    async def request(number: int) -> None:
        hold = await meter.reserve("org", "u", 2, request_id=f"r{number}")
        await hold.commit(1)

    for start in range(0, 300, 30):
        await asyncio.gather(*[request(number) for number in range(start, start + 30)])
    proxy.heal()
    # 600 operations in calls of at most 5, an answer each.
    assert proxy.resets - resets_before >= 12
    assert await shard.account() == (700, 0, 1)
    assert len(await shard.events()) == 300
    assert await shard.redis.hlen(shard.keys.holds) == 0


async def test_forgotten_scripts_are_told_again_in_the_middle(
    meter: Meter, shard: ScriptedShard
) -> None:
    for number in range(20):
        await shard.redis.script_flush()
        results = await asyncio.gather(*[meter.charge("org", "u", 1) for _ in range(10)])
        assert {receipt.charged for receipt in results} == {1}
        assert await shard.account() == (1000 - 10 * (number + 1), 0, 1)


async def knows(org_id: str, user_id: str) -> LoadedAccount:
    """A Postgres that has the account as it was at the beginning."""
    return LoadedAccount(1000, 1)


async def test_a_fenced_shard_is_refused_with_its_reason(
    connect: Any, shard: ScriptedShard
) -> None:
    hold = await (await connect(loader=knows)).reserve("org", "u", 100)
    meter: Meter = await connect(take_timeout_s=0.2)
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["being rebuilt"])
    with pytest.raises(ShardFenced, match="being rebuilt"):
        await answered(lambda: meter.reserve("org", "u", 1, request_id="r"))
    with pytest.raises(ShardFenced):
        await meter.balance("org", "u")
    with pytest.raises(ShardFenced):
        await connect()
    commit = asyncio.create_task(hold.commit(40))
    await shard.open(epoch=2)
    receipt = await commit
    assert receipt.late, "a commit waits for the shard to open and is charged there"
    assert await shard.account() == (960, 0, 1)


async def test_a_client_of_an_older_epoch_greets_again(meter: Meter, shard: ScriptedShard) -> None:
    await meter.charge("org", "u", 1)
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["test"])
    await shard.open(epoch=2)
    await shard.load("org/u", 50)
    assert (await meter.charge("org", "u", 1)).available == 49


async def test_an_account_read_before_a_rebuild_is_not_written_after_it(
    connect: Any, shard: ScriptedShard
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow_loader(org_id: str, user_id: str) -> LoadedAccount:
        reading.set()
        await go_on.wait()
        return LoadedAccount(available=10**6, applied=1)

    meter: Meter = await connect(loader=slow_loader)
    request = asyncio.create_task(meter.reserve("org", "slow", 1))
    await reading.wait()
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["test"])
    await shard.open(epoch=2)
    go_on.set()
    with pytest.raises(ShardFenced, match="STALE_EPOCH"):
        await request
    assert await shard.redis.hlen(shard.keys.accounts) == 0


async def test_a_changed_number_of_shards_is_followed(connect: Any, shard: ScriptedShard) -> None:
    """A client with the old number would look for accounts in the wrong shard."""
    meter: Meter = await connect()
    await meter.charge("org", "u", 1)
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["reshard"])
    # Its keys are as `reshard` leaves them when a shard is no more: closed, naming the new number.
    await shard.redis.hset(shard.keys.meta, "shards", 7)
    here = ScriptedShard(shard.redis, ShardKeys("tm", shard_of("org", 7)))
    assert here.keys.shard != 0
    await here.open(epoch=2, shards=7)
    await here.load("org/u", 500)
    assert (await meter.charge("org", "u", 1)).available == 499
    assert (await meter.balance("org", "u")).available == 499


async def test_a_closed_shard_of_a_known_number_is_waited_for(
    connect: Any, shard: ScriptedShard
) -> None:
    meter: Meter = await connect(take_timeout_s=0.2)
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["maintenance"])
    with pytest.raises(ShardFenced, match="maintenance"):
        await answered(lambda: meter.charge("org", "u", 1, request_id="r"))


async def test_a_key_of_the_wrong_type_is_said_at_once(meter: Meter, shard: ScriptedShard) -> None:
    await shard.redis.delete(shard.keys.deadlines)
    await shard.redis.set(shard.keys.deadlines, "wrong")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await meter.charge("org", "u", 1)
    assert await shard.account() == (1000, 0, 1)


@pytest.fixture
async def private(valkey_server: Callable[..., Any]) -> AsyncIterator[tuple[Any, ScriptedShard]]:
    """A server that the test may restart or starve, with an open shard."""
    server = valkey_server("--appendfsync", "always")
    redis = Redis.from_url(server.url)
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    yield server, shard
    await redis.aclose()


async def test_a_restarted_server_admits_nobody_until_it_is_approved(
    connect: Any, private: tuple[Any, ScriptedShard]
) -> None:
    """Redis may have lost its last second: only the guardian, who knows Postgres, can tell."""
    server, shard = private
    meter: Meter = await connect(url=server.url, lanes_per_server=1)
    hasty: Meter = await connect(url=server.url, lanes_per_server=1, take_timeout_s=0.5)
    hold = await meter.reserve("org", "u", 100)
    server.kill()
    commit = asyncio.create_task(hold.commit(30))
    with pytest.raises((StoreUnavailable, OutcomeUnknown)):
        await hasty.reserve("org", "u", 1)
    server.start()
    with pytest.raises(ShardFenced, match="not approved"):
        await answered(lambda: hasty.reserve("org", "u", 1))
    assert not commit.done()
    run_id = (await shard.redis.info("server"))["run_id"]
    await load_script("approve").call(shard.redis, [shard.keys.meta], [1, run_id])
    assert (await commit).charged == 30

    async def admitted() -> bool:
        return (await meter.reserve("org", "u", 1)).available >= 0

    await eventually(admitted, what="admission after approval")
    assert await shard.account() == (969, 1, 1)


async def test_full_memory_refuses_credit_and_lets_holds_end(
    connect: Any, private: tuple[Any, ScriptedShard]
) -> None:
    server, shard = private
    meter: Meter = await connect(url=server.url)
    holds = [await meter.reserve("org", "u", 10) for _ in range(3)]
    await shard.redis.config_set("maxmemory", FULL)
    results = await asyncio.gather(
        holds[0].commit(4),
        meter.reserve("org", "u", 1),
        holds[1].release(),
        meter.charge("org", "u", 1),
        holds[2].touch(2),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == [
        "Receipt",
        "StoreOutOfMemory",
        "Receipt",
        "StoreOutOfMemory",
        "Receipt",
    ]
    with pytest.raises(StoreOutOfMemory):
        await meter.reserve("org", "u", 1)
    assert await meter.balance("org", "u") == Balance(986, 10)
    await shard.redis.config_set("maxmemory", "0")
    with pytest.raises(InsufficientCredits):
        await meter.reserve("org", "u", 10**6)
