"""Slots move while everybody works: no call fails, and each request is booked as it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import asyncpg
import pytest
from settler_world import World, eventually
from support.cluster import PRIMARIES, SHARDS, Cluster, ClusterNode, organisations
from support.moving import RESERVED, SPENT, Traffic

from taximeter.meter import Meter
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import run_loops

ALLOCATED = 1_000_000
ORGS = organisations(SHARDS)
AND_BACK = 2
"""The shard that moves twice before anybody has looked."""


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test has opened, also when it fails."""
    async with AsyncExitStack() as made:
        yield made


@asynccontextmanager
async def settling(stores: Stores, settings: SettlerSettings) -> AsyncIterator[None]:
    """A settler at work, with the loops of its process."""
    settler, stop = Settler(stores, settings), asyncio.Event()
    await settler.start()
    working = asyncio.create_task(run_loops(settler.loops(), LoopActivity(), stop, grace_s=60.0))
    try:
        yield
    finally:
        stop.set()
        await working
        await settler.end()


def next_to(cluster: Cluster, slot: int) -> ClusterNode:
    """A primary that has not got this slot."""
    owner = cluster.nodes.index(cluster.owner(slot))
    return cluster.nodes[(owner + 1) % PRIMARIES]


async def test_slots_move_under_load(
    pool: asyncpg.Pool, cluster: Cluster, stack: AsyncExitStack
) -> None:
    """By the engine's own migration, there and back, back at once, and key by key: a settler books,
    holds are open, and nobody is told anything but the usual.
    """
    settings = SettlerSettings(redis_url=cluster.url(), redis_timeout_s=60.0, shards=SHARDS)
    world = World(Stores(pool, await stack.enter_async_context(aclosing(open_redis(settings)))))
    await world.start(SHARDS)
    for org in ORGS:
        await world.organization(org, u=ALLOCATED)
    slots = [cluster.slot_of(world.keys(org).meta) for org in ORGS]
    async with (
        await Meter.connect(cluster.url(), loader=account_loader(pool)) as meter,
        settling(world.stores, settings),
    ):
        for org in ORGS:
            for request in ("old", "older"):
                await meter.reserve(org, "u", RESERVED, request_id=request, ttl_s=3000)
        async with Traffic(meter, {shard: [org] for shard, org in enumerate(ORGS)}) as traffic:

            async def everybody_goes_on() -> None:
                await traffic.goes_on()
                assert traffic.failed == []

            for shard in (0, 1):
                for _ in range(2):
                    await move(cluster, slots[shard])
                    await everybody_goes_on()
            for _ in range(2):
                await move(cluster, slots[AND_BACK])
            await everybody_goes_on()
            to = next_to(cluster, slots[3])
            await asyncio.to_thread(cluster.move_slot, slots[3], to)
            await everybody_goes_on()
            await move(cluster, slots[4])
            # A heartbeat is refused by a server whose life its meter has not met: see is_outlived.
            await everybody_goes_on()
        assert traffic.failed == []
        for org in ORGS:
            await meter.touch(org, "u", "old", 1, ttl_s=3000)
            await meter.commit(org, "u", "old", SPENT)
            await meter.release(org, "u", "older")
            traffic.charged[org, "old"] = SPENT
        await eventually(lambda: is_settled(world.stores))
        left = {org: (await meter.balance(org, "u")).available for org in ORGS}
    booked = await pool.fetch(
        "SELECT org_id, request_id, sum(amount)::bigint FROM taximeter.charged_requests"
        " GROUP BY 1, 2"
    )
    assert {(org, request): amount for org, request, amount in booked} == traffic.charged
    for org in ORGS:
        spent = sum(amount for (of, _), amount in traffic.charged.items() if of == org)
        assert left[org] == ALLOCATED - spent == ALLOCATED - await world.used("u", org)
    # Nothing was taken for a loss: no shard was closed and brought back. But for one that may have
    # moved on when its guardian had written down the server that it came from.
    others = set(range(SHARDS)) - {AND_BACK}
    assert {(await world.mark(shard))["epoch"] for shard in others} == {1}
    await world.assert_books()


async def test_a_guardian_learns_of_a_move_from_anybody(
    pool: asyncpg.Pool, cluster: Cluster, stack: AsyncExitStack
) -> None:
    """And not from the old owner of the slot, which may stand still while it frees what it had."""
    settings = SettlerSettings(redis_url=cluster.url(), redis_timeout_s=60.0, shards=SHARDS)
    stores = Stores(pool, await stack.enter_async_context(aclosing(open_redis(settings))))
    await Settler(stores, settings).start()
    for _ in range(2):
        await Settler(stores, settings).guard()
        source = cluster.owner(cluster.slot_of(stores.keys(0).meta))
        before = cluster.calls("hgetall")[source.name]
        await move(cluster, cluster.slot_of(stores.keys(0).meta))
        cluster.wait_until_whole()
        await Settler(stores, settings).guard()
        its_own = sum(
            cluster.owner(cluster.slot_of(stores.keys(shard).meta)) is source
            for shard in range(SHARDS)
        )
        assert cluster.calls("hgetall")[source.name] - before == its_own


async def move(cluster: Cluster, slot: int) -> None:
    """At once where the engine can."""
    way = cluster.migrate if cluster.moves_at_once() else cluster.move_slot
    await asyncio.to_thread(way, slot, next_to(cluster, slot))


async def is_settled(stores: Stores) -> bool:
    """Nothing waits, and every shard is open."""
    return not any(
        one.unsettled_events or one.open_holds or one.unapplied_entries
        for one in await shard_statuses(stores)
    )
