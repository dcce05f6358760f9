"""Old months go, and the books stay provable: rollups, used credits and request ids are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from asyncpg import (
    DataCorruptedError,
    InvalidParameterValueError,
    LockNotAvailableError,
    ObjectNotInPrerequisiteStateError,
)
from support.books import Books, Conn

from taximeter.settler.proof.invariants import sql_invariants

BY_HAND = (
    "INSERT INTO credit_usage_attribution"
    " (org_id, user_id, service_type, service_name, credits_used, created_at)"
    " VALUES ($1, 'ann', 'by_hand', 'm', $2, $3)"
)
JANUARY, FEBRUARY = datetime(2025, 1, 15, tzinfo=UTC), datetime(2025, 2, 15, tzinfo=UTC)
DROP = "SELECT taximeter.drop_attribution_month($1::text::date)"
TOTALS = "SELECT sum(requests), sum(credits_used) FROM taximeter.usage_daily"


@pytest.fixture
async def books(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Books]:
    """Not proved by a recount of all rows, as those of other tests are, but as check does it."""
    made = Books(pool)
    yield made
    assert await violations(made) == []


async def used(books: Books) -> None:
    """A year and more of usage, some of it by hand in months that have partitions, some charged."""
    for month in ("2025-01-01", "2025-02-01"):
        await books.value("SELECT taximeter.make_attribution_month($1::text::date)", month)
    for org, amount in (("org", 5), ("other", 7)):
        await books.run(BY_HAND, org, amount, JANUARY)
        await books.run(BY_HAND, org, amount, FEBRUARY)
    await books.open(1000, 500)
    await books.deduct(10, "req-1")


async def violations(books: Books) -> list[str]:
    """What `taximeter check` asks the books."""
    return [
        f"{one.name}: {row[0]}" for one in sql_invariants() for row in await books.rows(one.sql)
    ]


async def months(books: Books) -> dict[str, tuple[object, ...]]:
    """(partition, requests, credits, dropped) by month."""
    rows = await books.rows("SELECT * FROM taximeter.usage_months() WHERE requests > 0")
    return {f"{month:%Y-%m}": tuple(rest) for month, *rest in rows}


async def test_a_dropped_month_leaves_everything_but_its_rows(books: Books) -> None:
    await used(books)
    before = await books.row(TOTALS)
    assert await books.value(DROP, "2025-01-01") == 2
    assert await books.row(TOTALS) == before
    assert await books.value("SELECT to_regclass('taximeter.attribution_2025_01')") is None
    assert await books.value("SELECT count(*) FROM credit_usage_attribution") == 3
    assert await books.value("SELECT taximeter.usage_floor()::text") == "2025-02-01"
    assert await violations(books) == []
    found = await months(books)
    assert found["2025-01"] == (None, 2, 12, 2)
    assert found["2025-02"] == ("attribution_2025_02", 2, 12, 0)
    assert await books.row("SELECT requests, credits_used FROM taximeter.dropped_months") == (2, 12)


async def test_a_month_is_dropped_again_when_rows_came_late(books: Books) -> None:
    """An event that was settled after its month had gone waits in the default partition."""
    await used(books)
    await books.value(DROP, "2025-01-01")
    await books.run(BY_HAND, "org", 100, JANUARY)
    assert await violations(books) == []
    assert (await months(books))["2025-01"] == (None, 3, 112, 2)
    assert await books.value(DROP, "2025-01-01") == 1
    assert (await months(books))["2025-01"] == (None, 3, 112, 3)
    assert await violations(books) == []
    # Deleted by hand after that: rows that are gone cannot be deleted, those that are there can.
    await books.run("DELETE FROM credit_usage_attribution WHERE org_id = 'other'")
    assert await violations(books) == []


async def test_an_edited_rollup_of_a_dropped_month_is_found(books: Books) -> None:
    await used(books)
    await books.value(DROP, "2025-01-01")
    async with books.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(
            "UPDATE taximeter.usage_daily SET credits_used = credits_used - 1"
            " WHERE org_id = 'org' AND day = '2025-01-15'"
        )
        found = [one.name for one in sql_invariants() if await conn.fetch(one.sql)]
        await transaction.rollback()
    assert "dropped_months_are_in_the_rollup" in found
    assert "rollup_by_org_is_the_rollup" in found


async def test_a_month_dropped_past_the_function_is_found_and_can_be_written_down(
    books: Books,
) -> None:
    await used(books)
    await books.run("DROP TABLE taximeter.attribution_2025_01")
    assert any("rollup_is_attribution" in one for one in await violations(books))
    assert await books.value(DROP, "2025-01-01") == 0
    assert await violations(books) == []


async def test_a_month_whose_rollup_is_wrong_is_not_dropped(books: Books) -> None:
    await used(books)
    async with books.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(
            "UPDATE taximeter.usage_monthly_by_org SET requests_to_day[31] = requests + 1"
            " WHERE month = '2025-01-01' AND org_id = 'org'"
        )
        with pytest.raises(DataCorruptedError, match=r"has 3 requests .* its rows are 2"):
            await conn.fetchval(DROP, "2025-01-01")
        await transaction.rollback()


async def test_the_order_and_the_newest_months_are_kept(books: Books) -> None:
    await used(books)
    with pytest.raises(ObjectNotInPrerequisiteStateError, match="2025-01 is still there"):
        await books.value(DROP, "2025-02-01")
    for month in (
        "SELECT date_trunc('month', now())::date",
        "SELECT (date_trunc('month', now()) - interval '1 month')::date",
        "SELECT (date_trunc('month', now()) + interval '1 month')::date",
        "SELECT NULL::date",
    ):
        with pytest.raises(InvalidParameterValueError, match="only months before the last one"):
            await books.value(f"SELECT taximeter.drop_attribution_month(({month}))")


async def test_a_charged_request_of_a_dropped_month_is_still_charged_once(books: Books) -> None:
    await books.value("SELECT taximeter.make_attribution_month('2025-01-01')")
    await books.open(1000, 500)
    await books.deduct(10, "ancient")
    # As if it had been charged long ago: rows cannot be given another date, so a new pair is made.
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute(
            "INSERT INTO taximeter.charged_requests"
            " (org_id, request_id, user_id, shard, epoch, seq, amount, created_at)"
            " VALUES ('org', 'old', 'ann', 0, 1, 1, 20, $1)",
            JANUARY,
        )
        await conn.execute(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name,"
            " credits_used, request_id, created_at, shard, epoch, seq)"
            " VALUES ('org', 'ann', 'llm_inference', 'm', 20, 'old', $1, 0, 1, 1)",
            JANUARY,
        )
        await conn.execute("UPDATE user_credit_allocations SET used_credits = used_credits + 20")
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 20")
    assert await books.value(DROP, "2025-01-01") == 1
    assert await books.deduct(20, "old") == (True, 470)
    assert await books.allocation() == (500, 30)


async def test_others_write_on_while_a_month_is_counted_and_a_reader_is_waited_for(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    """Dropping needs the table for a moment: whoever reads it now comes first, for five seconds."""
    await used(books)
    reader, _ = sessions
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM credit_usage_attribution")
        with pytest.raises(LockNotAvailableError):
            await books.value(DROP, "2025-01-01")
    assert await books.value(DROP, "2025-01-01") == 2
