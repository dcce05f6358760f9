"""Readers settle for themselves, and say how far the books go when they cannot."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World, eventually

from taximeter.api.embedded.machine import free_port
from taximeter.settler.books.stores import Stores
from taximeter.settler.settling.read_your_writes import CatchUp


@pytest.fixture
async def funded(world: World) -> World:
    await world.organization(ann=10**6)
    return world


async def test_without_redis_the_last_settled_event_says_as_of_when(funded: World) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    await funded.charge("ann", 5)
    assert (await CatchUp(funded.stores, 10.0).of_org("acme")).complete
    away = redis_asyncio.Redis(host="127.0.0.1", port=free_port(), socket_timeout=1)
    catch_up = CatchUp(Stores(funded.pool, away, funded.stores.prefix), 0.5)
    answer = await catch_up.of_org("acme")
    await away.aclose()
    assert not answer.complete
    assert answer.as_of is not None
    assert before <= answer.as_of <= datetime.now(UTC)


async def test_nothing_is_known_of_a_shard_that_has_settled_nothing(world: World) -> None:
    away = redis_asyncio.Redis(host="127.0.0.1", port=free_port(), socket_timeout=1)
    answer = await CatchUp(Stores(world.pool, away, world.stores.prefix), 0.5).of_all()
    await away.aclose()
    assert (answer.complete, answer.as_of) == (False, None)


async def test_a_role_that_may_not_settle_waits_for_those_who_do(
    funded: World, database_url: str
) -> None:
    await funded.charge("ann", 5)

    async def become_the_sidecar(conn: asyncpg.Connection) -> None:
        await conn.execute("SET ROLE taximeter_sidecar")

    await funded.pool.execute("GRANT SELECT ON taximeter.watermarks TO taximeter_sidecar")
    async with asyncpg.create_pool(database_url, min_size=1, init=become_the_sidecar) as pool:
        catch_up = CatchUp(Stores(pool, funded.stores.redis, funded.stores.prefix), 20.0)
        reading = asyncio.create_task(catch_up.of_org("acme"))

        async def refused() -> bool:
            return not catch_up.may_settle

        await eventually(refused)
        assert not reading.done()
        await funded.settle()
        assert (await reading).complete


async def test_a_reader_that_gives_up_leaves_the_attempt_to_the_others(funded: World) -> None:
    await funded.charge("ann", 5)
    hasty, patient = CatchUp(funded.stores, 0.1), CatchUp(funded.stores, 20.0)
    async with funded.pool.acquire() as conn:
        holding = conn.transaction()
        await holding.start()
        await conn.execute("SELECT FROM user_credit_allocations FOR UPDATE")
        assert not (await hasty.of_org("acme")).complete
        waiting = asyncio.create_task(patient.of_org("acme"))
        await holding.rollback()
    assert (await waiting).complete
    assert await funded.used("ann") == 5
    await hasty.aclose()
    await funded.assert_books()


async def test_closing_stops_an_attempt_and_leaves_nothing_behind(funded: World) -> None:
    await funded.charge("ann", 5)
    catch_up = CatchUp(funded.stores, 0.1)
    async with funded.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM user_credit_allocations FOR UPDATE")
        assert not (await catch_up.of_org("acme")).complete
        await catch_up.aclose()
    assert await funded.used("ann") == 0
    await funded.assert_books()


async def test_readers_and_settlers_at_once_book_every_charge_once(funded: World) -> None:
    """As many processes as readers, beside a settler, under traffic."""
    readers = [CatchUp(funded.stores, 20.0) for _ in range(3)]

    async def read(reader: CatchUp) -> None:
        for _ in range(5):
            await funded.charge("ann", 1)
            answer = await reader.of_org("acme")
            assert answer.complete

    async def settle() -> None:
        for _ in range(5):
            await funded.settle()

    await asyncio.gather(*(read(reader) for reader in readers), settle())
    assert await funded.used("ann") == 15
    await funded.assert_books()
