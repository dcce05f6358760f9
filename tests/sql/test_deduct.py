"""deduct_credits: one step, once a request, never more than there is."""

from __future__ import annotations

import pytest
from asyncpg import InvalidParameterValueError, UniqueViolationError
from support.books import Books

CAP = 10**12


async def test_remaining_is_what_is_left_after_this_deduction(books: Books) -> None:
    """The first version of the function took the amount off twice in its answer."""
    await books.open(10_000_000, 5_000_000)
    assert await books.deduct(50_000, "req-1") == (True, 4_950_000)
    assert await books.deduct(50_000, "req-2") == (True, 4_900_000)


async def test_it_writes_allocation_pool_attribution_rollup_request_and_entry(books: Books) -> None:
    await books.open(1000, 500)
    await books.row(
        "SELECT * FROM deduct_credits('org', 'ann', 40, 'llm', 'gpt', 'req-1', '{\"a\": 1}')"
    )
    assert await books.allocation() == (500, 40)
    assert await books.totals() == (1000, 500, 40, 500)
    assert await books.rows(
        "SELECT user_id, service_type, service_name, credits_used, request_id, shard,"
        " request_metadata->>'a' FROM credit_usage_attribution"
    ) == [("ann", "llm", "gpt", 40, "req-1", None, "1")]
    assert await books.rows("SELECT requests, credits_used FROM taximeter.usage_daily") == [(1, 40)]
    assert await books.rows(
        "SELECT request_id, phase, user_id, shard, epoch, seq, amount"
        " FROM taximeter.charged_requests"
    ) == [("req-1", 0, "ann", None, None, None, 40)]
    assert (await books.entries())[-1] == (2, -40, "deduction")
    assert await books.value("SELECT max(reference) FROM taximeter.account_entries") == "req-1"
    assert await books.live() == 460


async def test_the_last_credit_can_be_spent_and_not_one_more(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(101, "too-much") == (False, 100)
    assert await books.deduct(100, "all") == (True, 0)
    assert await books.deduct(1, "more") == (False, 0)


async def test_a_refusal_writes_nothing_and_leaves_its_id_unused(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(101, "req-1") == (False, 100)
    assert await books.value("SELECT count(*) FROM credit_usage_attribution") == 0
    assert await books.value("SELECT count(*) FROM taximeter.charged_requests") == 0
    assert await books.deduct(60, "req-1") == (True, 40)


async def test_without_an_active_allocation_nothing_fits(books: Books) -> None:
    await books.open(1000)
    assert await books.deduct(1, "req-1") == (False, 0)
    assert await books.deduct(1, "req-1", org="nowhere") == (False, 0)
    await books.allocate(100)
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    assert await books.deduct(1, "req-1") == (False, 0)


async def test_an_expired_allocation_is_not_spent_though_it_is_still_open(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET expires_at = now()")
    assert await books.deduct(1, "req-1") == (False, 0)
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', 1)") is False
    await books.run("UPDATE user_credit_allocations SET expires_at = now() + interval '1 hour'")
    assert await books.deduct(1, "req-1") == (True, 99)


async def test_the_same_request_is_deducted_once(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(30, "req-1") == (True, 70)
    assert await books.deduct(20, "req-2") == (True, 50)
    assert await books.deduct(30, "req-1") == (True, 50)
    assert await books.allocation() == (100, 50)


@pytest.mark.parametrize("then", ["spent", "closed", "expired"])
async def test_a_repetition_is_true_even_when_nothing_is_left(books: Books, then: str) -> None:
    await books.open(1000, 100)
    assert await books.deduct(60, "req-1") == (True, 40)
    left = 0
    if then == "spent":
        left = 10
        await books.deduct(30, "req-2")
    elif then == "closed":
        await books.run("UPDATE user_credit_allocations SET is_active = false")
    else:
        await books.run("UPDATE user_credit_allocations SET expires_at = now()")
    assert await books.deduct(60, "req-1") == (True, left)


async def test_the_same_id_belongs_to_each_organisation_by_itself(books: Books) -> None:
    await books.open(1000, 100)
    await books.open(1000, 100, org="other")
    assert await books.deduct(30, "req-1") == (True, 70)
    assert await books.deduct(40, "req-1", org="other") == (True, 60)


async def test_the_same_id_with_other_parameters_is_an_error(books: Books) -> None:
    await books.open(1000, 100)
    await books.allocate(100, user="bob")
    await books.deduct(30, "req-1")
    for amount, user in ((31, "ann"), (30, "bob"), (100, "ann")):
        with pytest.raises(UniqueViolationError, match=r"req-1 .* was used with other") as caught:
            await books.deduct(amount, "req-1", user=user)
        assert caught.value.constraint_name == "request_id_is_used_once"
    assert await books.totals() == (1000, 200, 30, 800)


async def test_both_phases_of_a_request_count_as_its_amount(books: Books) -> None:
    """A hold that expired with progress 30 and was then committed at 50 was charged 30 and 20."""
    await books.open(1000, 100)
    await books.run(
        "INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, amount)"
        " VALUES ('org', 'req-1', 0, 'ann', 30), ('org', 'req-1', 1, 'ann', 20)"
    )
    assert await books.deduct(50, "req-1") == (True, 100)
    with pytest.raises(UniqueViolationError):
        await books.deduct(30, "req-1")


async def test_without_a_request_id_every_call_deducts(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(10) == (True, 90)
    assert await books.deduct(10) == (True, 80)
    assert await books.value("SELECT count(*) FROM credit_usage_attribution") == 2
    assert await books.value("SELECT count(*) FROM taximeter.charged_requests") == 0


async def test_a_malformed_request_id_is_an_error(books: Books) -> None:
    await books.open(1000, 100)
    for request_id in ("", "a b", "a/b", "ä", "x" * 129, "a\nb", "a\n"):
        with pytest.raises(InvalidParameterValueError, match="request_id must have 1 to 128"):
            await books.deduct(1, request_id)


async def test_the_longest_request_id_passes(books: Books) -> None:
    await books.open(1000, 100)
    assert await books.deduct(1, "x" * 128) == (True, 99)


async def test_a_malformed_service_type_or_name_is_an_error(books: Books) -> None:
    await books.open(1000, 100)
    for service, name in (("", "m"), (None, "m"), ("x" * 65, "m"), ("s", "x" * 256)):
        with pytest.raises(InvalidParameterValueError, match="service_type must have 1 to 64"):
            await books.row(
                "SELECT deduct_credits('org', 'ann', 1, $1, $2, 'r', '{}')", service, name
            )


async def test_a_missing_service_name_or_metadata_is_an_empty_one(books: Books) -> None:
    await books.open(1000, 100)
    await books.row("SELECT deduct_credits('org', 'ann', 1, 'llm', NULL, 'r', NULL)")
    assert await books.row(
        "SELECT service_name, request_metadata::text FROM credit_usage_attribution"
    ) == ("", "{}")


async def test_the_settings_of_a_deduction_end_with_it(books: Books) -> None:
    """Plain SQL after it, in the same transaction, is still told apart from a charge."""
    await books.open(1000, 100)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT deduct_credits('org', 'ann', 10, 'llm', 'm', 'r', '{}')")
        await conn.execute("UPDATE user_credit_allocations SET used_credits = used_credits + 5")
    assert await books.entries() == [
        (1, 100, "allocation"),
        (2, -10, "deduction"),
        (3, -5, "correction"),
    ]
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == 5


async def test_a_refused_repetition_inside_a_transaction_can_be_caught(books: Books) -> None:
    await books.open(1000, 100)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT deduct_credits('org', 'ann', 10, 'llm', 'm', 'r', '{}')")
        with pytest.raises(UniqueViolationError):
            async with conn.transaction():
                await conn.execute("SELECT deduct_credits('org', 'ann', 11, 'llm', 'm', 'r', '{}')")
        await conn.execute("SELECT deduct_credits('org', 'ann', 11, 'llm', 'm', 's', '{}')")
    assert await books.allocation() == (100, 21)
