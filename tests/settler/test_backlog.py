"""Postgres away for long: the backlog is bounded, commits go on, and draining starts by itself."""

from __future__ import annotations

import asyncpg
import pytest
from redis.asyncio import Redis
from settler_world import World, eventually

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.meter import AdmissionPaused, Meter
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.admission import drain, end_drain
from taximeter.settler.worker.jobs import Settler

pytestmark = pytest.mark.slow

BACKLOG_MAX = 40


async def test_reserve_is_refused_at_the_limit_and_taken_again_after_the_outage(
    postgres_server: EmbeddedPostgres, redis: Redis, redis_url: str, key_prefix: str
) -> None:
    server = postgres_server
    settings = SettlerSettings(
        database_url=server.url,
        redis_url=redis_url,
        key_prefix=key_prefix,
        unsettled_events_max=BACKLOG_MAX,
        database_timeout_s=5,
    )
    pool = await asyncpg.create_pool(server.url, min_size=0)
    world = World(Stores(pool, redis, key_prefix))
    settler = Settler(world.stores, settings)
    await settler.start()
    await settler.settle()
    await world.organization(ann=1_000_000)
    async with await Meter.connect(
        redis_url, key_prefix=key_prefix, loader=account_loader(pool)
    ) as meter:
        holds = [await meter.reserve("acme", "ann", 10) for _ in range(5)]
        server.stop()
        for _ in range(BACKLOG_MAX):
            await meter.charge("acme", "ann", 1)
        await settler.settle()  # fails, and says nothing about it to the shard
        for attempt in (meter.reserve, meter.charge):
            with pytest.raises(AdmissionPaused, match="wait to be settled") as refused:
                await attempt("acme", "ann", 1)
            assert refused.value.reason == "backlog"
        length = await redis.xlen(world.keys().events)
        for hold in holds:
            assert (await hold.commit(4)).charged == 4
        assert await redis.xlen(world.keys().events) == length + len(holds)

        server.start()
        await pool.expire_connections()

        async def admitted() -> bool:
            await settler.settle()
            try:
                await meter.charge("acme", "ann", 1)
            except AdmissionPaused:
                return False
            return True

        await eventually(admitted, bound_s=60)
        await world.assert_books()
        assert await world.used("ann") == BACKLOG_MAX + 5 * 4 + 1
    await pool.close()


async def test_a_drain_lets_holds_end_and_takes_nothing_new(
    world: World, redis_url: str, key_prefix: str
) -> None:
    await world.organization(ann=1_000)
    async with await Meter.connect(redis_url, key_prefix=key_prefix) as meter:
        hold = await meter.reserve("acme", "ann", 10)
        await drain(world.stores, 0, 1, 60.0)
        with pytest.raises(AdmissionPaused, match="maintenance") as refused:
            await meter.reserve("acme", "ann", 1)
        assert refused.value.reason == "drain"
        await hold.commit(7)
        await end_drain(world.stores, 0, 1)
        assert (await meter.charge("acme", "ann", 1)).available == 992
    await world.assert_books()
