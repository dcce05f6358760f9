"""A pool gets its months: each once, late ones too, none that was not owed."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import asyncpg
from settler_moves import audited
from settler_world import World

from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.worker.jobs import Settler


async def refresh(world: World, *when: int) -> None:
    """One run of the job at that time (year, month, day, hour)."""
    at = datetime(*when, tzinfo=UTC)  # type: ignore[arg-type, misc]
    await Settler(world.stores, SettlerSettings(), clock=lambda: at).refresh()


async def made(world: World, org_id: str = "acme", last: date | None = date(2031, 1, 20)) -> None:
    """A pool of 1000 with 500 a month, last refreshed in January 2031."""
    await world.organization(org_id, total=1_000)
    await world.pool.execute(
        "UPDATE organization_credit_pools SET monthly_refresh_amount = 500, last_refresh_date = $2"
        " WHERE org_id = $1",
        org_id,
        last,
    )


async def pool_row(world: World, org_id: str = "acme") -> tuple[int, date | None]:
    """(total, last refresh) of the pool."""
    row = await world.pool.fetchrow(
        "SELECT total_credits, last_refresh_date FROM organization_credit_pools WHERE org_id = $1",
        org_id,
    )
    assert row is not None
    return row[0], row[1]


async def periods(world: World) -> list[tuple[str, int]]:
    rows = await world.pool.fetch(
        "SELECT to_char(period, 'YYYY-MM') AS month, amount FROM taximeter.pool_refreshes"
        " ORDER BY 1"
    )
    return [(row["month"], row["amount"]) for row in rows]


async def test_a_month_is_given_once(world: World) -> None:
    await made(world)
    await refresh(world, 2031, 1, 31, 23)
    assert await pool_row(world) == (1_000, date(2031, 1, 20))
    for _ in range(3):
        await refresh(world, 2031, 2, 1, 0)
    await refresh(world, 2031, 2, 28, 23)
    assert await pool_row(world) == (1_500, date(2031, 2, 1))
    await refresh(world, 2031, 3, 1, 0)
    assert await pool_row(world) == (2_000, date(2031, 3, 1))
    assert await periods(world) == [("2031-02", 500), ("2031-03", 500)]
    assert await audited(world, "org.credits.refreshed") == 2
    history = await world.pool.fetch(
        "SELECT metadata->>'period' AS period, metadata->>'millicredits' AS millicredits"
        " FROM org_billing_history WHERE event_type = 'credits_refreshed' ORDER BY 1"
    )
    assert [tuple(row) for row in history] == [("2031-02-01", "500"), ("2031-03-01", "500")]
    await world.assert_books()


async def test_months_that_were_missed_are_given_late(world: World) -> None:
    await made(world)
    await refresh(world, 2031, 5, 17, 3)
    assert await pool_row(world) == (3_000, date(2031, 5, 17))
    assert [month for month, _ in await periods(world)] == [
        "2031-02", "2031-03", "2031-04", "2031-05",
    ]  # fmt: skip


async def test_no_more_than_a_year_is_made_up_for(world: World) -> None:
    await made(world, last=date(2025, 6, 1))
    await refresh(world, 2031, 5, 17, 3)
    assert len(await periods(world)) == 12
    assert (await pool_row(world))[0] == 1_000 + 12 * 500


async def test_many_settlers_at_once_give_a_month_once(world: World) -> None:
    for n in range(5):
        await made(world, f"org-{n}")
    await asyncio.gather(*(refresh(world, 2031, 3, 2, 0) for _ in range(6)))
    await refresh(world, 2031, 3, 2, 0)
    for n in range(5):
        assert await pool_row(world, f"org-{n}") == (2_000, date(2031, 3, 2))


async def test_a_clock_that_goes_back_takes_and_gives_nothing(world: World) -> None:
    await made(world)
    await refresh(world, 2031, 3, 1, 0)
    await refresh(world, 2031, 2, 1, 0)
    await world.pool.execute(
        "UPDATE organization_credit_pools SET last_refresh_date = '2031-01-01'"
    )
    await refresh(world, 2031, 3, 5, 0)
    assert (await pool_row(world))[0] == 2_000, "the months are on record"


async def test_switching_it_on_gives_nothing_for_the_past(world: World) -> None:
    await world.organization("acme", total=1_000)
    await world.pool.execute(
        "UPDATE organization_credit_pools SET created_at = now() - interval '1 year'"
    )
    await world.pool.execute("UPDATE organization_credit_pools SET monthly_refresh_amount = 500")
    now = datetime.now(UTC)
    await refresh(world, now.year, now.month, now.day, now.hour)
    assert await pool_row(world) == (1_000, None)
    await refresh(world, now.year + 1, now.month, 1, 0)
    assert (await pool_row(world))[0] == 1_000 + 12 * 500


async def test_an_ended_subscription_gets_none_and_an_unpaid_one_waits(world: World) -> None:
    for org_id in ("acme", "owing", "gone"):
        await made(world, org_id)
    for org_id, status in (("acme", "active"), ("owing", "past_due"), ("gone", "canceled")):
        await world.pool.execute(
            "INSERT INTO organization_subscriptions"
            " (org_id, plan_code, plan_name, monthly_price, status)"
            " VALUES ($1, 'p', 'P', 1, $2)",
            org_id,
            status,
        )
    await refresh(world, 2031, 2, 3, 0)
    await world.pool.execute("UPDATE organization_subscriptions SET status = 'active'")
    await refresh(world, 2031, 3, 3, 0)
    assert await pool_row(world, "acme") == (2_000, date(2031, 3, 3))
    assert await pool_row(world, "owing") == (2_000, date(2031, 3, 3)), "February was paid late"
    assert await pool_row(world, "gone") == (1_500, date(2031, 3, 3)), "February is passed over"


async def test_a_pool_at_its_cap_does_not_stop_the_others(world: World) -> None:
    await made(world)
    await made(world, "full")
    await world.pool.execute(
        "UPDATE organization_credit_pools SET total_credits = 899999999999800 WHERE org_id = 'full'"
    )
    await refresh(world, 2031, 3, 3, 0)
    assert (await pool_row(world, "full"))[0] == 900_000_000_000_000
    assert (await pool_row(world))[0] == 2_000


async def test_the_job_finds_pools_by_index(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL enable_seqscan = off")
        plan = await conn.fetch(
            "EXPLAIN SELECT FROM organization_credit_pools"
            " WHERE monthly_refresh_amount > 0 AND refreshed_through < '2031-01-01'"
        )
        assert "pools_to_refresh" in str(plan)
        plan = await conn.fetch(
            "EXPLAIN SELECT FROM user_credit_allocations"
            " WHERE is_active AND closing IS NULL AND expires_at <= now()"
        )
        # Of an empty table either is as good.
        assert "allocations_by_expiry" in str(plan) or "allocations_by_end" in str(plan)
        plan = await conn.fetch(
            "EXPLAIN SELECT FROM user_credit_allocations WHERE is_active AND closing IS NOT NULL"
            " AND (org_id, user_id) > ('', '') ORDER BY org_id, user_id LIMIT 500"
        )
        assert "allocations_closing" in str(plan)
