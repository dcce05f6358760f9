"""A deduction that does not fit is on record, once a minute for an account."""

from __future__ import annotations

import json

from support.books import Books

ROWS = (
    "SELECT org_id, target, before::text, after::text, request_id FROM taximeter.audit_log"
    " WHERE action = 'credit.deduction.failed' ORDER BY id"
)


async def test_what_does_not_fit_is_on_record(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(100, "fits") == (True, 0)
    assert await books.rows(ROWS) == []
    assert await books.deduct(7, "r1") == (False, 0)
    assert await books.deduct(5, "r2", user="nobody") == (False, 0)
    first, second = await books.rows(ROWS)
    assert (first[:2], first[4]) == (("org", "ann"), "r1")
    assert (json.loads(first[2]), json.loads(first[3])) == (
        {"available_credits": 0},
        {"available_credits": 0, "needed_credits": 7},
    )
    assert second[:2] == ("org", "nobody")


async def test_a_repetition_is_no_refusal(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(100, "r1") == (True, 0)
    assert await books.deduct(100, "r1") == (True, 0)
    assert await books.rows(ROWS) == []


async def test_a_caller_that_tries_again_and_again_fills_no_table(books: Books) -> None:
    await books.open(1000, 100)
    for number in range(20):
        assert await books.deduct(101, f"r{number}") == (False, 100)
    assert len(await books.rows(ROWS)) == 1
    # A minute later: rows cannot be changed, so the clock of the first is what moves.
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute("UPDATE taximeter.audit_log SET at = at - interval '61 seconds'")
    await books.deduct(101, "later")
    assert [row[4] for row in await books.rows(ROWS)] == ["r0", "later"]
