"""Expiry gives the rest back; a renewal opens where the old one ended, or says why not."""

from __future__ import annotations

import json

from support.books import Books

EXPIRE = (
    "UPDATE user_credit_allocations SET created_at = now() - interval '30 days',"
    " expires_at = now() - interval '1 hour', auto_renew = $1 WHERE user_id = $2"
)
DEACTIVATE = "SELECT deactivate_expired_allocations()"


async def test_closing_keeps_what_was_used_and_gives_the_rest_back(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(120, "req-1")
    await books.run(EXPIRE, False, "ann")
    assert await books.value(DEACTIVATE) == 1
    assert await books.rows(
        "SELECT allocated_credits, used_credits, remaining_credits, is_active"
        " FROM user_credit_allocations"
    ) == [(120, 120, 0, False)]
    assert await books.totals() == (1000, 0, 120, 880)
    assert (await books.entries())[-1] == (3, -380, "expiry")
    assert await books.live() == 0
    assert await books.value(DEACTIVATE) == 0


async def test_only_what_has_expired_is_closed(books: Books) -> None:
    await books.open(1000, 100)
    await books.allocate(100, user="bob")
    await books.allocate(100, user="cid")
    await books.run(EXPIRE, False, "bob")
    await books.run(
        "UPDATE user_credit_allocations SET expires_at = now() + interval '1 minute'"
        " WHERE user_id = 'cid'"
    )
    assert await books.value(DEACTIVATE) == 1
    assert await books.rows(
        "SELECT user_id FROM user_credit_allocations WHERE is_active ORDER BY 1"
    ) == [("ann",), ("cid",)]


async def test_a_renewal_has_the_same_size_and_the_same_length_of_period(books: Books) -> None:
    await books.open(1000, 300)
    await books.deduct(120, "req-1")
    await books.run(EXPIRE, True, "ann")
    assert await books.value(DEACTIVATE) == 1
    assert await books.allocation() == (300, 0)
    # Where the old period ended the new one begins, so that a late job shortens nothing.
    assert await books.row(
        "SELECT new.created_at = old.expires_at,"
        "       new.expires_at - new.created_at = old.expires_at - old.created_at,"
        "       new.auto_renew, new.allocated_by"
        "  FROM user_credit_allocations old, user_credit_allocations new"
        " WHERE NOT old.is_active AND new.is_active"
    ) == (True, True, True, "boss")
    assert await books.totals() == (1000, 300, 120, 580)
    assert [entry[1:] for entry in (await books.entries())[-2:]] == [
        (-180, "expiry"),
        (300, "renewal"),
    ]
    assert await books.live() == 300


async def test_after_more_than_a_missed_period_the_new_one_begins_now(books: Books) -> None:
    await books.open(1000, 300)
    await books.run(
        "UPDATE user_credit_allocations SET auto_renew = true,"
        " created_at = now() - interval '90 days', expires_at = now() - interval '60 days'"
    )
    assert await books.value(DEACTIVATE) == 1
    assert await books.row(
        "SELECT expires_at > now() + interval '29 days', expires_at < now() + interval '31 days'"
        "  FROM user_credit_allocations WHERE is_active"
    ) == (True, True)
    assert await books.value(DEACTIVATE) == 0


async def test_what_the_closing_gives_back_can_pay_the_renewal(books: Books) -> None:
    await books.open(300, 300)
    await books.run(EXPIRE, True, "ann")
    await books.value(DEACTIVATE)
    assert await books.allocation() == (300, 0)
    assert await books.totals() == (300, 300, 0, 0)


async def test_a_pool_that_cannot_pay_closes_and_says_so(books: Books) -> None:
    await books.open(300, 300)
    await books.deduct(1, "req-1")
    await books.run(EXPIRE, True, "ann")
    assert await books.value(DEACTIVATE) == 1
    assert await books.allocation() is None
    event_type, status, metadata = (
        await books.row(
            "SELECT event_type, status, metadata::text FROM org_billing_history"
            " WHERE event_type <> 'credits_purchased'"
        )
        or ()
    )
    assert (event_type, status) == ("allocation_renewal_failed", "failed")
    said = json.loads(metadata)
    assert (said["user_id"], said["need_millicredits"], said["have_millicredits"]) == (
        "ann",
        300,
        299,
    )


async def test_one_that_cannot_renew_does_not_stop_the_others(books: Books) -> None:
    await books.open(300, 200)
    await books.allocate(100, user="bob")
    await books.deduct(150, "req-1")
    await books.run(EXPIRE, True, "ann")
    await books.run(EXPIRE, True, "bob")
    assert await books.value(DEACTIVATE) == 2
    assert await books.allocation("ann") is None
    assert await books.allocation("bob") == (100, 0)


async def test_an_overdrawn_allocation_closes_and_its_pool_pays(books: Books) -> None:
    """Actual costs above the holds may exceed an allocation: closing must not fail for it."""
    await books.open(100, 100)
    await books.run("UPDATE user_credit_allocations SET used_credits = 130")
    await books.run(EXPIRE, False, "ann")
    assert await books.value(DEACTIVATE) == 1
    assert await books.totals() == (100, 0, 130, -30)
    assert await books.live() == 0


async def test_allocating_to_an_expired_one_closes_it_first(books: Books) -> None:
    """Credits added to it would be out of reach until the daily job."""
    await books.open(1000, 300)
    await books.deduct(50, "req-1")
    await books.run(EXPIRE, False, "ann")
    await books.allocate(80)
    assert await books.allocation() == (80, 0)
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', 80)") is True
    assert await books.totals() == (1000, 80, 50, 870)


async def test_allocating_to_an_expired_one_that_renews_adds_to_the_renewal(books: Books) -> None:
    await books.open(1000, 300)
    await books.run(EXPIRE, True, "ann")
    await books.allocate(80)
    assert await books.allocation() == (380, 0)
