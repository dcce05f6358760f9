"""Several sessions at once: the same request, the same pool, the same account; who waits."""

from __future__ import annotations

import asyncio

import pytest
from asyncpg import CheckViolationError, UniqueViolationError
from support.books import Books, Conn

DEDUCT = "SELECT * FROM deduct_credits('org', $1, $2, 's', 'm', $3, '{}')"
ALLOCATE = "SELECT allocate_credits_to_user('org', $1, $2, 'boss')"


async def test_one_request_from_two_sessions_is_deducted_once(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    async with first.transaction():
        assert tuple(await first.fetchrow(DEDUCT, "ann", 30, "req-1") or ()) == (True, 70)
        repetition = asyncio.create_task(second.fetchrow(DEDUCT, "ann", 30, "req-1"))
        await books.waits(second)
    assert tuple(await repetition or ()) == (True, 70)
    assert await books.allocation() == (100, 30)


async def test_a_repetition_after_a_rollback_is_the_deduction(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    transaction = first.transaction()
    await transaction.start()
    await first.fetchrow(DEDUCT, "ann", 30, "req-1")
    repetition = asyncio.create_task(second.fetchrow(DEDUCT, "ann", 30, "req-1"))
    await books.waits(second)
    await transaction.rollback()
    assert tuple(await repetition or ()) == (True, 70)
    assert await books.allocation() == (100, 30)
    assert await books.entries() == [(1, 100, "allocation"), (2, -30, "deduction")]


async def test_a_repetition_of_what_took_the_last_credits_is_true(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    async with first.transaction():
        await first.fetchrow(DEDUCT, "ann", 100, "req-1")
        repetition = asyncio.create_task(second.fetchrow(DEDUCT, "ann", 100, "req-1"))
        await books.waits(second)
    assert tuple(await repetition or ()) == (True, 0)


async def test_one_request_id_from_two_users_at_once_is_an_error_for_the_second(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    """The two hold different allocations: only the charged request stands between them."""
    first, second = sessions
    await books.open(1000, 100)
    await books.allocate(100, user="bob")
    async with first.transaction():
        await first.fetchrow(DEDUCT, "ann", 30, "req-1")
        other = asyncio.create_task(second.fetchrow(DEDUCT, "bob", 30, "req-1"))
        await books.waits(second)
    with pytest.raises(UniqueViolationError, match="used with other parameters"):
        await other
    assert await books.totals() == (1000, 200, 30, 800)


async def test_many_deductions_at_once_never_overspend(books: Books) -> None:
    await books.open(1000, 70)
    answers = await asyncio.gather(*(books.deduct(1, f"req-{n % 90}") for n in range(180)))
    assert await books.allocation() == (70, 70)
    assert await books.value("SELECT count(*) FROM credit_usage_attribution") == 70
    # Every admitted id came twice and was true twice.
    assert sum(1 for answer in answers if answer is not None and answer[0]) == 140


async def test_two_allocations_at_once_cannot_share_the_same_credits(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000)
    async with first.transaction():
        await first.fetchval(ALLOCATE, "ann", 700)
        other = asyncio.create_task(second.fetchval(ALLOCATE, "bob", 700))
        await books.waits(second)
    with pytest.raises(CheckViolationError, match="need 700 millicredits, have 300"):
        await other
    assert await books.totals() == (1000, 700, 0, 300)


async def test_two_first_allocations_of_one_user_add_up(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000)
    async with first.transaction():
        one = await first.fetchval(ALLOCATE, "ann", 100)
        other = asyncio.create_task(second.fetchval(ALLOCATE, "ann", 200))
        await books.waits(second)
    assert await other == one
    assert await books.allocation() == (300, 0)


async def test_many_allocations_at_once_stay_within_the_pool(books: Books) -> None:
    await books.open(1000)
    answers = await asyncio.gather(
        *(books.allocate(100, user=f"u{n % 7}") for n in range(30)), return_exceptions=True
    )
    assert sum(1 for answer in answers if not isinstance(answer, BaseException)) == 10
    assert await books.totals() == (1000, 1000, 0, 0)


async def test_a_deduction_that_waited_for_a_renewal_spends_the_renewed_one(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    async with first.transaction():
        await first.execute(
            "UPDATE user_credit_allocations SET auto_renew = true,"
            " created_at = now() - interval '1 day', expires_at = now() - interval '1 second'"
        )
        assert await first.fetchval("SELECT deactivate_expired_allocations()") == 1
        waiting = asyncio.create_task(second.fetchrow(DEDUCT, "ann", 30, "req-1"))
        await books.waits(second)
    assert tuple(await waiting or ()) == (True, 70)


async def test_two_daily_jobs_at_once_close_each_allocation_once(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET expires_at = now()")
    async with first.transaction():
        assert await first.fetchval("SELECT deactivate_expired_allocations()") == 1
        other = asyncio.create_task(second.fetchval("SELECT deactivate_expired_allocations()"))
        await books.waits(second)
    assert await other == 0
    assert [entry[2] for entry in await books.entries()] == ["allocation", "expiry"]


async def test_entry_numbers_follow_the_commits(books: Books, sessions: tuple[Conn, Conn]) -> None:
    """A relay that has seen entry 2 must never meet an entry 1 that was committed later."""
    first, second = sessions
    append = "SELECT taximeter.append_entry('org', 'ann', 1, 'repair')"
    transaction = first.transaction()
    await transaction.start()
    assert await first.fetchval(append) == 1
    later = asyncio.create_task(second.fetchval(append))
    await books.waits(second)
    await transaction.rollback()
    assert await later == 1
    # The books end even.
    assert await books.value("SELECT taximeter.append_entry('org', 'ann', -1, 'repair')") == 2
