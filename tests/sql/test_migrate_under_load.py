"""Every migration after the contract's functions is applied while people charge, allocate and read:
none of them fails, and none waits for a lock longer than a second, though somebody's long report
keeps the migrations waiting.
"""

from __future__ import annotations

import asyncio

import asyncpg
from sql.test_migrations import MIGRATIONS, dumped_schema
from support.books import Books
from support.under_load import Load, impatient_pool
from support.waiting import eventually

from taximeter.api.processes.migrate import migrate

FUNCTIONS = next(place for place, name in enumerate(MIGRATIONS) if "credit_functions" in name)
ROWS = 5_000
USAGE = """
    SELECT user_id, service_name, date_trunc('day', created_at), SUM(credits_used), COUNT(*)
    FROM credit_usage_attribution
    WHERE org_id = $1 AND created_at >= now() - interval '30 days'
    GROUP BY 1, 2, 3
"""


async def test_callers_of_the_contract_go_on(empty_database_url: str) -> None:
    migrate(empty_database_url)
    for _ in MIGRATIONS[FUNCTIONS + 1 :]:
        migrate(empty_database_url, "down")
    async with impatient_pool(empty_database_url, 8) as pool:
        books = Books(pool)
        for org in ("org", "other"):
            await books.open(10**9, 10**8, org)
        # Rows whose copy or check would be seen, had a migration to hold a lock for it.
        for first in range(0, ROWS, 250):
            await pool.execute(
                "SELECT count(*) FROM generate_series($1::int, $1 + 249) AS n, LATERAL"
                " deduct_credits('other', 'ann', 1 + n % 5, 'llm', 'm' || n % 9, 'old' || n, '{}')",
                first,
            )

        async def deduct(number: int) -> None:
            row = await books.deduct(7, f"r{number}")
            assert row is not None
            assert row[0]

        async def deduct_elsewhere(number: int) -> None:
            row = await books.deduct(3, f"r{number}", org="other")
            assert row is not None
            assert row[0]

        async def allocate(number: int) -> None:
            await books.allocate(10, user=f"u{number % 20}")

        async def buy(number: int) -> None:
            await books.value("SELECT add_credits_to_pool('org', 5, 1.00)")

        async def read(number: int) -> None:
            assert await books.rows(USAGE, "org")
            assert await books.value("SELECT has_sufficient_credits('org', 'ann', 1)")

        works = {
            "deduct": deduct,
            "deduct_elsewhere": deduct_elsewhere,
            "allocate": allocate,
            "buy": buy,
            "read": read,
        }
        async with Load(**works) as load, asyncpg.create_pool(empty_database_url) as reports:
            migrating = asyncio.create_task(asyncio.to_thread(migrate, empty_database_url))
            async with reports.acquire() as report, report.transaction():
                # A long report has read the pools, and a migration has to change them.
                await report.fetch("SELECT * FROM organization_credit_pools")

                async def stands_before_it() -> bool:
                    return bool(
                        await reports.fetchval(
                            "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY "
                            "(pg_blocking_pids(pid)) AND application_name <> 'under-load'",
                            report.get_server_pid(),
                        )
                    )

                for _ in range(2):
                    await eventually(stands_before_it, what="a migration that waits")
                    await load.everyone_goes_on()
                assert not migrating.done()
            before = load.done.total()
            await migrating
            assert load.done.total() > before, "nobody did anything during the migration"
            await load.everyone_goes_on()
        used = await books.value("SELECT sum(used_credits) FROM organization_credit_pools")
        old = await pool.fetchval(
            "SELECT sum(1 + n % 5) FROM generate_series(0, $1 - 1) AS n", ROWS
        )
        assert used == old + 7 * load.done["deduct"] + 3 * load.done["deduct_elsewhere"]
        await books.prove()
    migrated = dumped_schema(empty_database_url)
    conn = await asyncpg.connect(empty_database_url)
    applied = await conn.fetchval("SELECT count(*) FROM schema_migrations")
    await conn.close()
    assert applied == len(MIGRATIONS)
    assert "deduct_credits" in migrated
