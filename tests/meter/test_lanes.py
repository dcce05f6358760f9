"""Sixty-four shards of one server share its two lanes: several travel in a write, each is given its
own reply, and what befalls one of them is no news of the others.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from support.proxy import Proxy
from support.servers import ValkeyFactory
from support.shard import FULL, ScriptedShard

from taximeter.meter import (
    LoadedAccount,
    Meter,
    MeterSettings,
    StoreError,
    StoreOutOfMemory,
    StoreUnavailable,
)
from taximeter.meter.lanes.line import Line
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.server_lanes import BATCH_SPLIT_MIN
from taximeter.meter.lanes.shard import ShardClient
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.meter.wire.operations import Operation
from taximeter.meter.wire.scripts import load_script

SHARDS = 64
LANES = 2


class Many:
    """Open shards with an organisation each, and a user whose credits say which shard it is."""

    def __init__(self, redis: Redis, count: int) -> None:
        self.redis = redis
        self.shards = [ScriptedShard(redis, ShardKeys("tm", number)) for number in range(count)]
        names = [f"org{number}" for number in range(50 * count)]
        self.orgs = [
            next(name for name in names if shard_of(name, count) == number)
            for number in range(count)
        ]

    async def open(self) -> Many:
        for number, shard in enumerate(self.shards):
            await shard.open(shards=len(self.shards))
            await shard.load(f"{self.orgs[number]}/u", self.credits(number))
        return self

    def credits(self, shard: int) -> int:
        return 100_000 + 100 * shard

    async def charged(self, shard: int) -> list[str]:
        return [event[3].partition("/")[2] for event in await self.shards[shard].events()]


@pytest.fixture
async def many(redis: Redis) -> Many:
    return await Many(redis, SHARDS).open()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many calls each write of a lane had in it."""
    seen: list[int] = []
    ask = Line.ask

    def counted(self: Line, calls: list[bytes]) -> Any:
        seen.append(len(calls))
        return ask(self, calls)

    monkeypatch.setattr(Line, "ask", counted)
    return seen


async def loaded(org_id: str, user_id: str) -> LoadedAccount:
    """A Postgres that has every account, after what was charged before."""
    return LoadedAccount(500, 1)


async def charge_all(meter: Meter, many: Many, request: str) -> list[Any]:
    """One charge a shard, all in one moment."""
    return await asyncio.gather(
        *(meter.charge(org, "u", 1, request_id=request) for org in many.orgs),
        return_exceptions=True,
    )


async def connections(redis: Redis) -> set[str]:
    return {one["id"] for one in await redis.client_list()}


async def test_two_connections_and_a_write_for_many(
    connect: Callable[..., Any], many: Many, writes: list[int]
) -> None:
    meter: Meter = await connect(take_timeout_s=30.0)
    before = await connections(many.redis)
    for number in range(3):
        writes.clear()
        receipts = await charge_all(meter, many, f"r{number}")
        # What is left says whose reply it was.
        left = [receipt.available for receipt in receipts]
        assert left == [many.credits(shard) - number - 1 for shard in range(SHARDS)]
        if number:  # At first nobody knows the script.
            assert sum(writes) == SHARDS
            assert len(writes) <= SHARDS / BATCH_SPLIT_MIN
    assert len(await connections(many.redis) - before) <= LANES
    assert await many.charged(5) == ["r0", "r1", "r2"]


async def test_what_befalls_a_shard_is_no_news_of_the_others(
    connect: Callable[..., Any], many: Many, writes: list[int]
) -> None:
    meter: Meter = await connect(loader=loaded, take_timeout_s=30.0)
    await charge_all(meter, many, "before")
    closed, broken = 3, 40
    await load_script("fence").call(many.redis, [many.shards[closed].keys.meta], ["looked at"])
    await many.redis.delete(many.shards[broken].keys.deadlines)
    await many.redis.set(many.shards[broken].keys.deadlines, "of the wrong type")
    await many.redis.script_flush()  # Nobody knows the script either.
    writes.clear()
    charging = [
        asyncio.create_task(meter.charge(org, "u", 1, request_id="during")) for org in many.orgs
    ]
    others = [task for number, task in enumerate(charging) if number not in (closed, broken)]
    for receipt in await asyncio.gather(*others):
        assert not receipt.replayed
    assert max(writes) > 1
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await charging[broken]
    assert not charging[closed].done()
    await many.shards[closed].open(epoch=2, shards=SHARDS)
    assert (await charging[closed]).available == 499
    for number in set(range(SHARDS)) - {closed, broken}:
        assert await many.charged(number) == ["before", "during"]
    assert await many.charged(broken) == ["before"]


@pytest.fixture
async def private(valkey_server: ValkeyFactory) -> AsyncIterator[Many]:
    server = valkey_server()
    async with Redis.from_url(server.url) as redis:
        yield await Many(redis, 8).open()


async def test_full_memory_refuses_credit_on_every_shard_and_lets_holds_end(
    connect: Callable[..., Any], private: Many
) -> None:
    port = private.redis.connection_pool.connection_kwargs["port"]
    meter: Meter = await connect(f"redis://127.0.0.1:{port}/0", take_timeout_s=30.0)
    holds = [await meter.reserve(org, "u", 5) for org in private.orgs]
    await private.redis.config_set("maxmemory", FULL)
    told = await asyncio.gather(
        *(hold.commit(2) for hold in holds[::2]),
        *(meter.charge(org, "u", 1) for org in private.orgs),
        return_exceptions=True,
    )
    assert [receipt.charged for receipt in told[:4]] == [2] * 4
    assert {type(refused) for refused in told[4:]} == {StoreOutOfMemory}
    await private.redis.config_set("maxmemory", "0")


async def test_a_flooded_shard_delays_another_by_a_few_writes(
    connect: Callable[..., Any], many: Many, writes: list[int]
) -> None:
    """By the count of what was done meanwhile, not by a clock."""
    flooded, most = 2_000, 50
    meter: Meter = await connect(batch_max=most, take_timeout_s=60.0)
    await charge_all(meter, many, "warm")
    flood = [
        asyncio.create_task(meter.charge(org, "u", 1))
        for org in many.orgs[:4]
        for _ in range(flooded)
    ]
    await asyncio.sleep(0)  # All of them wait now, and none is answered.
    await meter.charge(many.orgs[50], "u", 1, request_id="calm")
    # Two writes are under way, and each of the four has its turn before.
    assert sum(task.done() for task in flood) <= 6 * LANES * most
    await asyncio.gather(*flood)
    assert [len(await shard.events()) for shard in many.shards[:5]] == [flooded + 1] * 4 + [1]


async def test_random_resets_charge_everything_once_on_every_shard(
    connect: Callable[..., Any], redis: Redis, redis_url: str
) -> None:
    """Also where some replies of a write have come and others have not."""
    many = await Many(redis, 16).open()
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(proxy.url, take_timeout_s=50.0, resolve_timeout_s=50.0)
        chance = random.Random(2)
        proxy.slice(40)
        proxy.reset_by_count(chance.randint(3, 9) for _ in itertools.count())

        async def request(org: str, number: int) -> None:
            hold = await meter.reserve(org, "u", 2, request_id=f"r{number}")
            assert (await hold.commit(1)).charged == 1

        for number in range(12):
            await asyncio.gather(*(request(org, number) for org in many.orgs))
        assert proxy.resets >= 5
        proxy.heal()
    for number, shard in enumerate(many.shards):
        assert sorted(await many.charged(number)) == sorted(f"r{count}" for count in range(12))
        assert await shard.account(f"{many.orgs[number]}/u") == (many.credits(number) - 12, 0, 1)


async def test_what_waits_goes_to_the_shards_that_there_are(
    connect: Callable[..., Any], many: Many
) -> None:
    """Their number changes while calls of all of them are queued and under way."""
    meter: Meter = await connect(loader=loaded, take_timeout_s=30.0)
    await charge_all(meter, many, "before")
    for shard in many.shards:
        await load_script("fence").call(many.redis, [shard.keys.meta], ["reshard"])
    charging = asyncio.create_task(charge_all(meter, many, "during"))
    await asyncio.sleep(0)
    for shard in many.shards:
        await many.redis.hset(shard.keys.meta, "shards", 5)
    for shard in many.shards[:5]:
        await shard.open(epoch=2, shards=5)
    assert [receipt.charged for receipt in await charging] == [1] * SHARDS
    names = [line for number in range(5) for line in await many.shards[number].events()]
    made = sorted(line[3] for line in names if line[3].endswith("/during"))
    assert made == sorted(f"{org}/during" for org in many.orgs)


async def test_a_closing_meter_gives_up_what_no_shard_takes(
    connect: Callable[..., Any], many: Many
) -> None:
    meter: Meter = await connect(take_timeout_s=30.0)
    await charge_all(meter, many, "before")
    for shard in many.shards[:32]:
        await load_script("fence").call(many.redis, [shard.keys.meta], ["looked at"])
    charging = [
        asyncio.create_task(meter.charge(org, "u", 1, request_id="last")) for org in many.orgs
    ]
    await asyncio.gather(*charging[32:])
    await meter.aclose(0.0)
    told = await asyncio.gather(*charging[:32], return_exceptions=True)
    assert all(isinstance(error, StoreError) for error in told)
    assert [await many.charged(number) for number in range(32)] == [["before"]] * 32


class Ring:
    """Who is called for."""

    def __init__(self) -> None:
        self.shards: list[ShardClient] = []

    def add(self, shard: ShardClient) -> None:
        self.shards.append(shard)

    def remove(self, shard: ShardClient) -> None:
        self.shards.remove(shard)


async def test_what_waits_goes_where_the_map_says() -> None:
    """Also from a server that answers nobody, whose lanes come for nothing any more."""
    first, second = Ring(), Ring()
    owner: Ring | None = first

    def find(keys: ShardKeys, error: BaseException | None) -> Ring:
        if owner is None:
            raise ResponseError("CLUSTERDOWN no primary has it")
        return owner

    places: Any = SimpleNamespace(heed=lambda error: None)
    keys, settings = ShardKeys("tm", 0), MeterSettings()
    shard = ShardClient(places, find, keys, lambda found: None, settings, Tally())
    charge = shard.submit(Operation("charge", "a/x", "a/r"))
    assert first.shards == [shard]
    owner = second
    shard.find_home()
    assert (first.shards, second.shards) == ([], [shard])
    owner = None
    shard.find_home()
    assert second.shards == []
    assert not charge.done()
    owner = first
    shard.find_home()
    assert (first.shards, shard.waiting) == ([shard], 1)
    await shard.retire(Pending.give_up)
    with pytest.raises(StoreUnavailable, match="CLUSTERDOWN"):
        await charge
