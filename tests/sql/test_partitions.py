"""Months of usage are partitions, made ahead of time; nothing is refused for its date."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from asyncpg import InsufficientPrivilegeError, InvalidParameterValueError, RestrictViolationError
from support.books import Books

INSERT = (
    "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used, created_at)"
    " VALUES ('org', 'ann', 'by_hand', 1, $1)"
)
WHERE_IT_IS = "SELECT tableoid::regclass::text FROM credit_usage_attribution ORDER BY created_at"


def month(ahead: int) -> tuple[datetime, str]:
    """The middle of a month counted from this one, and the name of its partition."""
    now = datetime.now(UTC)
    years, months = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    middle = datetime(years, months + 1, 15, tzinfo=UTC)
    return middle, f"taximeter.attribution_{middle:%Y_%m}"


async def partitions(books: Books) -> set[str]:
    return {
        name
        for (name,) in await books.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'credit_usage_attribution'::regclass"
        )
    }


async def test_the_migration_makes_the_months_around_now(books: Books) -> None:
    assert await partitions(books) == {
        "taximeter.attribution_rest",
        *(month(ahead)[1] for ahead in range(-1, 4)),
    }


async def test_a_row_is_in_its_month_or_in_the_rest(books: Books) -> None:
    await books.run(INSERT, datetime(1999, 12, 31, tzinfo=UTC))
    await books.run(INSERT, month(0)[0])
    await books.run(INSERT, month(30)[0])
    assert [name for (name,) in await books.rows(WHERE_IT_IS)] == [
        "taximeter.attribution_rest",
        month(0)[1],
        "taximeter.attribution_rest",
    ]


async def test_missing_months_are_made_once_and_take_their_rows_out_of_the_rest(
    books: Books,
) -> None:
    await books.run(INSERT, month(5)[0])
    await books.run(INSERT, month(30)[0])
    assert await books.value("SELECT taximeter.ensure_attribution_partitions(5)") == 2
    assert await books.value("SELECT taximeter.ensure_attribution_partitions(5)") == 0
    assert [name for (name,) in await books.rows(WHERE_IT_IS)] == [
        month(5)[1],
        "taximeter.attribution_rest",
    ]


async def test_a_month_begins_in_utc_whatever_the_session_thinks(books: Books) -> None:
    first = month(4)[0].replace(day=1)
    async with books.pool.acquire() as conn:
        await conn.execute("SET timezone = 'America/New_York'")
        await conn.fetchval("SELECT taximeter.ensure_attribution_partitions(4)")
    await books.run(INSERT, first)
    assert [name for (name,) in await books.rows(WHERE_IT_IS)] == [month(4)[1]]


async def test_several_at_once_make_each_month_once(books: Books) -> None:
    made = await asyncio.gather(
        *(books.value("SELECT taximeter.ensure_attribution_partitions(9)") for _ in range(4))
    )
    assert sum(made) == 6


@pytest.mark.parametrize("months", [-1, 121, None])
async def test_the_number_of_months_is_bounded(books: Books, months: int | None) -> None:
    with pytest.raises(InvalidParameterValueError, match="months_ahead must be between 0 and 120"):
        await books.value("SELECT taximeter.ensure_attribution_partitions($1)", months)


@pytest.mark.parametrize("partition", ["attribution_rest", month(0)[1].partition(".")[2]])
async def test_a_partition_is_not_written_directly(books: Books, partition: str) -> None:
    """A write that names a partition would not reach the rollup."""
    await books.run(INSERT, month(0)[0])
    for statement in (
        f"INSERT INTO taximeter.{partition} (org_id, user_id, service_type, credits_used)"
        " VALUES ('org', 'ann', 'by_hand', 1)",
        f"UPDATE taximeter.{partition} SET credits_used = 2",
        f"DELETE FROM taximeter.{partition}",
        f"TRUNCATE taximeter.{partition}",
    ):
        with pytest.raises(RestrictViolationError, match="write to credit_usage_attribution"):
            await books.run(statement)


@pytest.mark.parametrize("made", ["by the migration", "later"])
async def test_settling_may_fill_a_month_itself(books: Books, made: str) -> None:
    """As it fills the whole table: the rollups hear of it."""
    await books.value("SELECT taximeter.ensure_attribution_partitions(5)")
    time, partition = month(0 if made == "by the migration" else 5)
    await books.open(1000, 500)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'; SET LOCAL ROLE taximeter_settler")
        free = INSERT.replace("credit_usage_attribution", partition).replace("1, $1", "0, $1")
        await conn.execute(free, time)
        for statement in ("UPDATE {} SET credits_used = 2", "DELETE FROM {}", "TRUNCATE {}"):
            with pytest.raises(InsufficientPrivilegeError):
                async with conn.transaction():
                    await conn.execute(statement.format(partition))
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        with pytest.raises(RestrictViolationError, match="write to credit_usage_attribution"):
            await conn.execute(f"UPDATE {partition} SET credits_used = 2")
    assert await books.rows("SELECT user_id, requests FROM taximeter.usage_daily") == [("ann", 1)]
    assert await books.rows(WHERE_IT_IS) == [(partition,)]


async def test_dropping_an_old_month_keeps_its_rollup_and_its_request_ids(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(10, "req-1")
    async with books.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(f"DROP TABLE {month(0)[1]}")
        assert await conn.fetchval("SELECT sum(credits_used) FROM taximeter.usage_daily") == 10
        assert await conn.fetchval("SELECT count(*) FROM taximeter.charged_requests") == 1
        await transaction.rollback()
