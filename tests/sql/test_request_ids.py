"""Request ids are remembered in two generations, and forgotten no sooner than was asked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from support.books import Books, Conn

from taximeter.settler.proof.invariants import sql_invariants

KEPT = timedelta(days=30)
FREEZE = "SELECT taximeter.freeze_charges($1)"
FORGET = "SELECT taximeter.forget_charges($1)"
WAIT = "ALTER FUNCTION taximeter.freeze_charges(interval) SET lock_timeout"
DEDUCT = "SELECT * FROM deduct_credits('org', $1, $2, 'test', 'model', $3, '{}')"
MIGRATION = next((Path(__file__).parents[2] / "migrations").glob("*_request_ids_forgotten.sql"))


async def a_month_passes(books: Books) -> None:
    """As far as the generations go."""
    await books.run(
        "UPDATE taximeter.charge_generations SET began_at = began_at - interval '31 days',"
        " frozen_at = frozen_at - interval '31 days'"
    )


async def freeze(books: Books) -> None:
    await a_month_passes(books)
    assert await books.value(FREEZE, KEPT) is True


async def ids(books: Books, table: str = "taximeter.charged_requests") -> list[str]:
    return [row[0] for row in await books.rows(f"SELECT request_id FROM {table} ORDER BY 1")]


async def test_an_id_is_refused_across_a_freeze_and_free_once_it_is_forgotten(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(10, "first")
    assert await books.value(FREEZE, KEPT) is False  # Not old enough.
    await freeze(books)
    assert await ids(books, "ONLY taximeter.charged_requests") == []
    assert await ids(books) == ["first"]
    assert await books.deduct(10, "first") == (True, 490)
    with pytest.raises(asyncpg.UniqueViolationError, match="other parameters"):
        await books.deduct(11, "first")
    await books.deduct(20, "second")
    assert await books.allocation() == (500, 30)
    # Neither before its time, nor a second one beside it.
    assert await books.value(FORGET, KEPT) is None
    await a_month_passes(books)
    assert await books.value(FREEZE, KEPT) is False
    assert await books.value(FORGET, KEPT) == 1
    assert await ids(books) == ["second"]
    assert await books.deduct(20, "second") == (True, 470)
    # A new request, by the promise.
    assert await books.deduct(10, "first") == (True, 460)
    assert await books.row(
        "SELECT generation, requests, credits_used FROM taximeter.charge_generations"
        " WHERE forgotten_at IS NOT NULL"
    ) == (1, 1, 10)
    # And so on: names, rights and the guard are those of the first.
    await freeze(books)
    assert await books.deduct(10, "first") == (True, 460)
    assert await books.deduct(20, "second") == (True, 460)
    assert [row[0] for row in await books.rows(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'charged_requests' ORDER BY 1"
    )] == [
        "charged_requests_by_expiry", "charged_requests_by_time", "charged_requests_pkey",
    ]  # fmt: skip
    for one in sql_invariants():
        assert await books.rows(one.sql) == [], one.name


async def test_ids_are_kept_for_thirty_days_at_least(books: Books) -> None:
    for statement in (FREEZE, FORGET):
        for kept in (timedelta(days=29), None):
            with pytest.raises(asyncpg.InvalidParameterValueError, match="30 days at least"):
                await books.value(statement, kept)


async def test_the_roles_may_do_what_they_could(books: Books) -> None:
    """Add to the new generation, read both, and never change what is charged."""
    await freeze(books)
    for role in ("taximeter_app", "taximeter_settler"):
        for table, wanted in (
            ("charged_requests", {"SELECT", "INSERT"}),
            ("charged_requests_1", {"SELECT"}),
        ):
            found = {
                word
                for word in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
                if await books.value(
                    "SELECT has_table_privilege($1, $2, $3)", role, f"taximeter.{table}", word
                )
            }
            assert found == wanted, (role, table)


async def test_a_charge_that_is_under_way_is_waited_for(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    """What is not committed when the tables change places is in the older one, or the newer one
    refuses its repetition.
    """
    await books.open(1000, 500)
    await books.allocate(100, user="bob")
    await a_month_passes(books)
    first, second = sessions
    charging = first.transaction()
    await charging.start()
    await first.fetchrow(DEDUCT, "ann", 10, "same")
    async with second.transaction():
        # Two seconds may be over before a slow machine has done what it is waited for.
        await second.execute(f"{WAIT} = '5min'")
        freezing = asyncio.create_task(second.fetchval(FREEZE, KEPT))
        await books.waits(second)
        await charging.commit()
        assert await freezing is True
        await second.execute(f"{WAIT} = '2s'")
    with pytest.raises(asyncpg.UniqueViolationError, match="other parameters"):
        await books.deduct(10, "same", user="bob")
    assert await ids(books, "ONLY taximeter.charged_requests") == []


async def test_somebody_who_is_charging_for_long_is_in_the_way(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    await books.open(1000, 500)
    await a_month_passes(books)
    first, second = sessions
    async with first.transaction():
        await first.fetchrow(DEDUCT, "ann", 10, "same")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await second.fetchval(FREEZE, KEPT)
    assert await books.deduct(10, "same") == (True, 490)


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_snapshot_from_before_the_freeze_charges_nothing(
    books: Books, sessions: tuple[Conn, Conn], isolation: str
) -> None:
    """It does not see what was charged before the freeze and after its own beginning."""
    await books.open(1000, 500)
    await books.allocate(100, user="bob")
    await a_month_passes(books)
    early, other = sessions
    transaction = early.transaction(isolation=isolation)  # type: ignore[arg-type]
    await transaction.start()
    await early.fetchval("SELECT count(*) FROM organizations")
    await other.fetchrow(DEDUCT, "ann", 10, "same")
    assert await other.fetchval(FREEZE, KEPT) is True
    with pytest.raises(asyncpg.SerializationError, match="begin it again"):
        await early.fetchrow(DEDUCT, "bob", 10, "same")
    await transaction.rollback()
    async with early.transaction(isolation=isolation):  # type: ignore[arg-type]
        with pytest.raises(asyncpg.UniqueViolationError):
            await early.fetchrow(DEDUCT, "bob", 10, "same")


async def test_deleted_usage_takes_its_charge_out_of_either_generation(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(10, "first")
    await freeze(books)
    await books.deduct(20, "second")
    await books.run("DELETE FROM credit_usage_attribution WHERE org_id = 'org'")
    assert await ids(books) == []


async def test_the_way_back_loses_no_id(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(10, "first")
    await freeze(books)
    await books.deduct(20, "second")
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute(MIGRATION.read_text("utf-8").partition("-- migrate:down")[2])
    assert await ids(books, "ONLY taximeter.charged_requests") == ["first", "second"]
    assert await books.deduct(10, "first") == (True, 470)
    assert await books.deduct(20, "second") == (True, 470)
