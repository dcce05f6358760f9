"""An allocation has one end; renewing needs one; SQL keeps the API's rules and leaves records."""

from __future__ import annotations

import asyncpg
import pytest
from support.books import Books

ALLOCATE = (
    "SELECT taximeter.allocate_credits('org', 'ann', $1, 'boss', $2, $3::text::timestamptz, $4)"
)
STANDING = (
    "SELECT allocated_credits, expires_at::date::text, auto_renew"
    " FROM user_credit_allocations WHERE is_active"
)
LATER, LATEST = "2040-01-01", "2041-01-01"


async def give(
    books: Books,
    amount: int,
    *,
    end: str | None = None,
    names: bool = True,
    renew: bool | None = None,
) -> None:
    await books.run(ALLOCATE, amount, names, end, renew)


async def test_temporary_credits_do_not_end_permanent_ones(books: Books) -> None:
    """100 without an end, then 1 with one: all 101 were closed at it."""
    await books.open(1000, 100)
    with pytest.raises(asyncpg.CheckViolationError, match="ends never, and credits that end") as no:
        await give(books, 1, end=LATER)
    assert no.value.constraint_name == "one_end_for_an_allocation"
    assert await books.row(STANDING) == (100, None, False)
    assert await books.totals() == (1000, 100, 0, 900)


async def test_credits_with_the_same_end_or_none_named_are_added(books: Books) -> None:
    await books.open(1000)
    await give(books, 100, end=LATER)
    await give(books, 10, end=LATER)
    await give(books, 1, names=False)
    await books.allocate(1)
    assert await books.row(STANDING) == (112, LATER, False)
    with pytest.raises(asyncpg.CheckViolationError, match="ends at 2040-01-01"):
        await give(books, 1, end=LATEST)


async def test_null_takes_the_end_away_and_renewing_with_it(books: Books) -> None:
    await books.open(1000)
    await give(books, 100, end=LATER, renew=True)
    assert await books.row(STANDING) == (100, LATER, True)
    await give(books, 10, end=None)
    assert await books.row(STANDING) == (110, None, False)


async def test_what_has_nothing_left_takes_the_new_end(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(100, "r1")
    await give(books, 50, end=LATER)
    assert await books.row(STANDING) == (150, LATER, False)


async def test_renewing_needs_an_end(books: Books) -> None:
    await books.open(1000, 100)
    with pytest.raises(asyncpg.CheckViolationError, match="auto_renew needs an end"):
        await give(books, 1, names=False, renew=True)
    with pytest.raises(asyncpg.CheckViolationError, match="auto_renew needs an end"):
        await books.run("UPDATE user_credit_allocations SET auto_renew = true")
    with pytest.raises(asyncpg.CheckViolationError, match="auto_renew needs an end"):
        await books.run(
            "INSERT INTO user_credit_allocations (org_id, user_id, auto_renew)"
            " VALUES ('org', 'bob', true)"
        )
    await books.run(
        "UPDATE user_credit_allocations"
        " SET auto_renew = true, expires_at = now() + interval '1 day'"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="auto_renew needs an end"):
        await books.run("UPDATE user_credit_allocations SET expires_at = NULL")


@pytest.mark.parametrize("amount", ["0.005", "10.001", "-0.01", "100000000.00"])
async def test_half_a_cent_is_no_amount(books: Books, amount: str) -> None:
    await books.open(1000)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="whole cents"):
        await books.run("SELECT add_credits_to_pool('org', 5, $1::text::numeric)", amount)
    assert await books.totals() == (1000, 0, 0, 1000)
    await books.run("SELECT add_credits_to_pool('org', 5, 10.100)")


async def test_purchases_and_allocations_by_sql_are_in_the_audit_log(books: Books) -> None:
    await books.open(1000)
    await books.allocate(100)
    await books.allocate(7)
    who = await books.value("SELECT session_user::text")
    assert await books.rows(
        "SELECT action, actor, coalesce(target, ''), after ->> 'allocated_by'"
        " FROM taximeter.audit_log WHERE action <> 'org.credits.purchased' ORDER BY id"
    ) == [
        ("user.allocation.created", who, "ann", "boss"),
        ("org.credits.allocated", who, "ann", "boss"),
        ("org.credits.allocated", who, "ann", "boss"),
    ]
    assert await books.row(
        "SELECT actor, before ->> 'total_credits', after ->> 'total_credits',"
        " after ->> 'purchase_amount', after ->> 'vouched_by'"
        " FROM taximeter.audit_log WHERE action = 'org.credits.purchased'"
    ) == (who, "0", "1000", "1.00", "sql")


@pytest.mark.parametrize("org", ["billing", "history", "subscriptions", "users", "credits"])
async def test_a_word_of_a_path_names_no_organisation(books: Books, org: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="part of a path") as refusal:
        await books.open(org=org)
    assert refusal.value.constraint_name == "org_id_is_no_part_of_a_path"


@pytest.mark.parametrize("user", [" ann", "ann ", " "])
async def test_a_user_has_no_blank_ends(books: Books, user: str) -> None:
    await books.open(1000)
    with pytest.raises(asyncpg.CheckViolationError, match="begin or end with a blank"):
        await books.allocate(10, user=user)
    with pytest.raises(asyncpg.CheckViolationError, match="begin or end with a blank"):
        await books.run(
            "INSERT INTO organization_members (org_id, user_id) VALUES ('org', $1)", user
        )
