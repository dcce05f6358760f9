"""A node that hangs, or is gone with its replica, is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from settler_world import World, eventually
from structlog.testing import capture_logs
from support.cluster import (
    NODE_TIMEOUT_MS,
    SHARDS,
    Cluster,
    MeterFactory,
    organisations,
    pause,
    resume,
    run_id,
    settings_of,
)
from support.waiting import answered

from taximeter.meter.places import places
from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.proof import reconcile
from taximeter.settler.proof.check import check
from taximeter.settler.shards.fill import ask_places
from taximeter.settler.status import health as health_module
from taximeter.settler.status import lag
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.status.metrics import system_families
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.work_metrics import WorkMetrics

FOREVER_S = 600.0
"""Longer than any test: whoever waits for a node that hangs does not come back."""
ORGS = organisations(SHARDS)


@pytest.fixture
def first(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The shards of the first primary, which may hang as long as it likes: its replica does not
    take over by itself.
    """
    monkeypatch.setattr(places, "LOOK_TIMEOUT_S", 0.5)
    for node in cluster.nodes:
        node.ask("CONFIG SET", "cluster-node-timeout", int(FOREVER_S * 1000))
    yield cluster.shards_of(cluster.nodes[0])
    resume(cluster.nodes[0])
    for node in cluster.nodes:
        node.ask("CONFIG SET", "cluster-node-timeout", NODE_TIMEOUT_MS)


async def test_calls_of_other_nodes_go_on(
    world: World, cluster: Cluster, first: list[int], connect: MeterFactory
) -> None:
    meter = await connect(cluster.url(*cluster.nodes), call_timeout_s=1.0)
    others = sorted(set(range(SHARDS)) - set(first))
    pause(cluster.nodes[0])
    held = [asyncio.create_task(meter.charge(ORGS[n], "u", 10, request_id="held")) for n in first]
    for request in range(20):
        for n in others:
            receipt = await meter.charge(ORGS[n], "u", 1, request_id=f"r{request}")
            assert receipt.charged == 1
    assert not any(task.done() for task in held)
    # Whoever starts now is not stopped by the first host of the URL, nor by the first shard's.
    late = await answered(lambda: connect(cluster.url(*cluster.nodes), call_timeout_s=4.0))
    assert (await late.charge(ORGS[others[0]], "u", 0)).charged == 0
    await answered(meter.ready)

    async def names_those_alone() -> bool:
        """A slow machine is late with the answers of others."""
        away = tuple(f"shard {n} is away" for n in first)
        said = f"(On each of 2 servers; {cluster.nodes[0].name} did not answer.)"
        return await meter.missing() == away and (await meter.promise()).endswith(said)

    await eventually(names_those_alone)
    resume(cluster.nodes[0])
    assert [(await task).charged for task in held] == [10] * len(first)
    assert await meter.missing() == ()
    await world.assert_books()
    assert [await world.used("u", org) for org in ORGS] == [
        10 if n in first else 20 for n in range(SHARDS)
    ]


async def test_shards_of_other_nodes_are_guarded_settled_and_told_of_credits(
    world: World, cluster: Cluster, first: list[int], connect: MeterFactory
) -> None:
    settings = settings_of(cluster.url(*cluster.nodes), redis_timeout_s=FOREVER_S)
    client = open_redis(settings)
    settler = Settler(Stores(world.pool, client), settings)
    others = sorted(set(range(SHARDS)) - set(first))
    try:
        await settler.start()
        await settler.fill()
        meter = await connect()
        await asyncio.gather(*(meter.charge(ORGS[n], "u", 10) for n in others))
        pause(cluster.nodes[0])
        # As the loops do: who is not done is left behind.
        for _ in range(2):
            await settler.guard(0.5)
            await settler.settle(0.5)
            await settler.sweep(0.5)
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 500"
        )

        async def is_settled() -> bool:
            return [await world.used("u", ORGS[n]) for n in others] == [10] * len(others)

        async def is_told() -> bool:
            await settler.relay()
            return [await world.live("u", ORGS[n]) for n in others] == [(1490, 0, 2)] * len(others)

        await eventually(is_settled)
        await eventually(is_told)
        asked = await ask_places(world.stores)
        assert asked.away == set(first)
        assert [place.shard for place in asked.places] == others
        # Another server of another node may be let in meanwhile.
        heir = cluster.replica_of(cluster.nodes[1])
        cluster.take_over(heir)
        approved = run_id(heir)

        async def is_let_in() -> bool:
            await settler.guard(0.5)
            meta = await world.pool.fetch("SELECT shard, run_id FROM taximeter.watermarks")
            return sum(row["run_id"] == approved for row in meta) == SHARDS // 3

        await eventually(is_let_in)
    finally:
        resume(cluster.nodes[0])
        await settler.end()
        await client.aclose()


async def test_a_call_that_hangs_ends_when_its_slot_has_another_server(
    world: World, cluster: Cluster, first: list[int]
) -> None:
    client = open_redis(settings_of(cluster.url(*cluster.nodes)))
    meta = ShardKeys("tm", first[0]).meta
    try:
        assert await client.hget(meta, "epoch") == b"1"
        heir = cluster.replica_of(cluster.nodes[0])
        pause(cluster.nodes[0])
        hanging = [asyncio.create_task(client.hget(meta, "epoch")) for _ in range(3)]
        pipe = client.pipeline()
        pipe.hget(meta, "epoch")
        hanging.append(asyncio.create_task(pipe.execute()))
        cluster.take_over(heir)
        # One that the map does not name any more is disconnected.
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(one, RedisTimeoutError | RedisConnectionError) for one in ended)
        assert not any("no answer within" in str(one) for one in ended)
        assert await client.hget(meta, "epoch") == b"1"
    finally:
        resume(cluster.nodes[0])
        await client.aclose()


async def test_a_settler_says_what_the_weakest_of_its_servers_promises(
    world: World, cluster: Cluster
) -> None:
    weak = cluster.nodes[2]
    settings = settings_of(cluster.url(*cluster.nodes), durability="none")
    weak.ask("CONFIG SET", "appendonly", "no")
    try:
        with capture_logs() as logs:
            await Settler(world.stores, settings).start()
    finally:
        weak.ask("CONFIG SET", "appendonly", "yes")
    (said,) = [line["promise"] for line in logs if line["event"] == "started"]
    assert said.startswith("M0: ")
    assert said.endswith(f"(So on {weak.name}; the other 2 promise more.)")


async def test_what_can_be_reached_is_told_of_and_who_is_away_is_named(
    world: World,
    cluster: Cluster,
    first: list[int],
    connect: MeterFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By health, metrics, reconcile and check: of the other nodes as ever, and of the one that does
    not answer that nobody knows. Nothing is said to be right that was not looked at.
    """
    others = sorted(set(range(SHARDS)) - set(first))
    away = cluster.nodes[0].name
    meter = await connect()
    await asyncio.gather(*(meter.charge(ORGS[n], "u", 10) for n in others))
    settings = settings_of(cluster.url(*cluster.nodes), redis_timeout_s=FOREVER_S)
    client = open_redis(settings)
    stores = Stores(world.pool, client)
    await client.hget(world.keys(ORGS[others[0]]).meta, "epoch")
    work = WorkMetrics()
    settler, health = Settler(stores, settings, metrics=work), HealthCheck(stores)
    await settler.start()
    try:
        pause(cluster.nodes[0])

        async def is_named() -> bool:
            try:
                found = await shard_statuses(stores)
            except RedisError:  # Such a busy machine that nobody answered in time.
                return False
            return {found[n].away for n in first} == {away}

        await eventually(is_named)
        resume(cluster.nodes[0])
        # From now on no answer is late: nobody is there to give one.
        for module in (lag, reconcile):
            monkeypatch.setattr(module, "ANSWER_S", FOREVER_S)
        monkeypatch.setattr(health_module, "TIMEOUT_S", FOREVER_S)
        cluster.nodes[0].kill()
        found = await shard_statuses(stores)
        assert [one.away for one in found] == [away if n in first else None for n in range(SHARDS)]
        assert [found[n].unsettled_events for n in others] == [1] * len(others)
        seen = await health.get()
        assert (seen.redis.status, seen.redis.reason) == ("degraded", "node_away")
        assert [one.reason for one in seen.shards] == [
            "away" if n in first else None for n in range(SHARDS)
        ]
        scraped = {
            (sample.name, sample.labels.get("shard"))
            for family in system_families(health)
            for sample in family.samples
        }
        waiting = {of for name, of in scraped if name == "taximeter_unsettled_events"}
        assert waiting == {str(n) for n in others}
        with capture_logs() as logs:
            await settler.reconcile()
        (said,) = [line for line in logs if "not_looked_at" in line]
        assert said["not_looked_at"] == dict.fromkeys(first, away)
        assert {line["event"] for line in logs} == {"reconcile", "cluster"}
        report = await check(stores)
        assert (report.holds, report.proved) == (True, None)
        unread = {one.name: one.unread for one in report.invariants if one.unread}
        assert unread["I1"] == [f"shard {n}: {away} does not answer" for n in first]
        assert set(unread) == {"I1", "I4", "I6", "I7", "I11", "I13"}
    finally:
        if not cluster.nodes[0].running:
            cluster.nodes[0].start()
        await health.aclose()
        await settler.end()
        await client.aclose()
