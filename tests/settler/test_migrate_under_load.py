"""The newest migration, whichever it is, comes while a settler settles, callers charge and people
read: nothing is lost, nobody waits long, the books are right.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from redis.asyncio import Redis
from settler_world import World
from support.under_load import Load, impatient_pool

from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import relay
from taximeter.settler.settling.settle import settle_once

FILL = 2_000
NOT_YET = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
"""What this release may meet before the migration that it comes with; never after it."""


@pytest.mark.own_database
async def test_the_newest_migration_comes_under_load(
    database_url: str, pool: asyncpg.Pool[asyncpg.Record], redis: Redis, key_prefix: str
) -> None:
    world = World(Stores(pool, redis, key_prefix))
    await world.start()
    for org in ("acme", "beta"):
        await world.organization(org, 10**10, ann=10**9, bob=10**9)
    for start in range(0, FILL, 500):
        operations = [
            ("charge", "ann" if n % 2 else "bob", f"f{n}", 1 + n % 9)
            for n in range(start, start + 500)
        ]
        await world.operate("acme", *operations)
    await world.settle()
    await pool.expire_connections()
    await asyncio.to_thread(migrate, database_url, "down")

    migrated = False
    early = 0
    async with impatient_pool(database_url, 8) as impatient:
        stores = replace(world.stores, pool=impatient)

        async def settled() -> None:
            nonlocal early
            try:
                await settle_once(stores, 0, batch_events=200, attempts=1)
                await relay(stores)
            except NOT_YET:
                assert not migrated
                early += 1
                await asyncio.sleep(0.01)

        async def charge(number: int) -> None:
            await world.operate(
                "acme", *(("charge", "ann", f"n{number}.{part}", 2) for part in range(20))
            )

        async def deduct(number: int) -> None:
            done = await impatient.fetchval(
                "SELECT success FROM deduct_credits('beta', 'ann', 5, 's', 'm', $1, '{}')",
                f"d{number}",
            )
            assert done

        async def allocate(number: int) -> None:
            await impatient.execute("SELECT allocate_credits_to_user('beta', 'bob', 3, 'boss')")

        async def read(number: int) -> None:
            await impatient.fetch(
                "SELECT user_id, SUM(credits_used) FROM credit_usage_attribution"
                " WHERE org_id = 'acme' GROUP BY user_id"
            )

        works = {
            "settle": lambda number: settled(),
            "charge": charge,
            "deduct": deduct,
            "allocate": allocate,
            "read": read,
        }
        async with Load(**works) as load:
            before = load.done.total()
            await asyncio.to_thread(migrate, database_url)
            during = load.done.total() - before
            # Whoever has asked meanwhile may still be told what the old tables say.
            await load.everyone_goes_on()
            migrated = True
            await load.everyone_goes_on()
        assert during, "nobody did anything during the migration"
        await world.assert_books()
        charged = 40 * load.done["charge"] + sum(1 + n % 9 for n in range(FILL))
        assert await world.used("ann") + await world.used("bob") == charged
        assert await world.used("ann", "beta") == 5 * load.done["deduct"]
        assert await world.dead_letters() == []
