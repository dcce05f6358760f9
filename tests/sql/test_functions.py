"""The functions of the contract: what they take, what they refuse, what they do to the pool."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pytest
from asyncpg import CheckViolationError, ForeignKeyViolationError, InvalidParameterValueError
from support.books import Books

CAP = 10**12
BALANCE_CAP = 9 * 10**14
CALLS = {
    "has_sufficient_credits": "SELECT has_sufficient_credits('org', 'ann', $1)",
    "deduct_credits": "SELECT deduct_credits('org', 'ann', $1, 's', 'n', 'r', '{}')",
    "add_credits_to_pool": "SELECT add_credits_to_pool('org', $1, 1.00)",
    "allocate_credits_to_user": "SELECT allocate_credits_to_user('org', 'ann', $1, 'boss')",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_amounts_outside_1_to_the_cap_are_errors(books: Books, call: str) -> None:
    await books.open(1000, 100)
    for amount in (0, -1, CAP + 1, -(2**63), 2**63 - 1, None):
        with pytest.raises(InvalidParameterValueError, match="millicredits must be between 1 and"):
            await books.value(call, amount)
    assert await books.totals() == (1000, 100, 0, 900)


async def test_the_cap_itself_passes_everywhere(books: Books) -> None:
    await books.open(0)
    await books.value("SELECT add_credits_to_pool('org', $1, 1.00)", CAP)
    await books.allocate(CAP)
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', $1)", CAP) is True
    assert await books.deduct(CAP, "req-1") == (True, 0)


SPELLINGS = [
    "SELECT has_sufficient_credits('org', 'ann', 1)",
    "SELECT has_sufficient_credits('org'::VARCHAR, 'ann'::VARCHAR, 1::BIGINT)",
    "SELECT has_sufficient_credits('org'::TEXT, 'ann'::VARCHAR(255), 1::SMALLINT)",
    "SELECT deduct_credits('org', 'ann', 1, 's', 'n', 'r', '{}')",
    "SELECT deduct_credits('org', 'ann', 1, 's', 'n', 'r')",
    "SELECT deduct_credits('org'::VARCHAR, 'ann'::VARCHAR, 1::BIGINT, 's'::VARCHAR,"
    " 'n'::VARCHAR, 'r'::VARCHAR, '{}'::JSONB)",
    "SELECT add_credits_to_pool('org', 10, 100.00)",
    "SELECT add_credits_to_pool('org', 10, 100)",
    "SELECT add_credits_to_pool('org'::VARCHAR, 10::BIGINT, 100.00::DECIMAL)",
    "SELECT add_credits_to_pool('org'::VARCHAR, 10::BIGINT, 100.00::DECIMAL(10, 2))",
    "SELECT allocate_credits_to_user('org', 'ann', 10, 'system')",
    "SELECT allocate_credits_to_user('org'::VARCHAR, 'ann'::VARCHAR, 10::BIGINT,"
    " 'system'::VARCHAR)",
    "SELECT deactivate_expired_allocations()",
]


async def test_every_way_to_write_the_arguments_finds_the_function(books: Books) -> None:
    await books.open(1000, 100)
    for call in SPELLINGS:
        await books.run(call)


async def test_there_is_one_function_a_name_with_a_fixed_search_path(books: Books) -> None:
    functions = await books.rows(
        "SELECT proname::text, pg_get_function_result(oid), proconfig::text, prosecdef"
        "  FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
    )
    path = '{"search_path=pg_catalog, pg_temp"}'
    assert functions == [
        ("add_credits_to_pool", "void", path, False),
        ("allocate_credits_to_user", "uuid", path, False),
        ("deactivate_expired_allocations", "integer", path, False),
        ("deduct_credits", "TABLE(success boolean, remaining_credits bigint)", path, False),
        ("has_sufficient_credits", "boolean", path, False),
    ]
    # A body that is an expression was resolved when it was made, and an aggregate has none.
    assert (
        await books.rows(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = 'taximeter'::regnamespace"
            " AND prokind <> 'a' AND prosqlbody IS NULL"
            " AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"
        )
        == []
    )


async def test_has_sufficient_compares_with_what_remains(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(40, "req-1")
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', 60)") is True
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', 61)") is False
    assert await books.value("SELECT has_sufficient_credits('org', 'bob', 1)") is False


async def test_adding_makes_the_pool_raises_it_and_writes_history(books: Books) -> None:
    await books.open(0)
    assert await books.totals() is None
    await books.run("SELECT add_credits_to_pool('org', 700, 12.34)")
    await books.run("SELECT add_credits_to_pool('org', 300, 0)")
    assert await books.totals() == (1000, 0, 0, 1000)
    history = await books.rows(
        "SELECT event_type, amount, currency, status, metadata->>'millicredits'"
        " FROM org_billing_history ORDER BY created_at"
    )
    assert history == [
        ("credits_purchased", Decimal("12.34"), "USD", "completed", "700"),
        ("credits_purchased", Decimal("0.00"), "USD", "completed", "300"),
    ]


@pytest.mark.parametrize("price", ["-0.01", "100000000", "NaN", "Infinity", None])
async def test_a_price_outside_its_column_is_an_error(books: Books, price: str | None) -> None:
    await books.open(100)
    with pytest.raises(InvalidParameterValueError, match="purchase_amount must be between 0 and"):
        await books.run("SELECT add_credits_to_pool('org', 1, $1::text::numeric)", price)
    assert await books.totals() == (100, 0, 0, 100)


async def test_a_pool_has_a_cap(books: Books) -> None:
    await books.open(CAP)
    await books.run("UPDATE organization_credit_pools SET total_credits = $1", BALANCE_CAP - 1)
    await books.run("SELECT add_credits_to_pool('org', 1, 0)")
    with pytest.raises(CheckViolationError, match="total_is_in_range"):
        await books.run("SELECT add_credits_to_pool('org', 1, 0)")


async def test_an_unknown_organisation_has_no_pool(books: Books) -> None:
    with pytest.raises(ForeignKeyViolationError, match="pool_has_an_organization"):
        await books.run("SELECT add_credits_to_pool('nowhere', 1, 0)")
    await books.open(0)
    with pytest.raises(ForeignKeyViolationError, match="organisation org has no credit pool"):
        await books.allocate(1)


async def test_allocating_takes_from_the_pool_and_returns_the_id(books: Books) -> None:
    await books.open(1000)
    first = await books.allocate(600)
    assert isinstance(first, uuid.UUID)
    assert await books.totals() == (1000, 600, 0, 400)
    assert await books.row("SELECT id, allocated_by FROM user_credit_allocations") == (
        first,
        "boss",
    )


async def test_allocating_again_adds_to_the_active_allocation(books: Books) -> None:
    """The first version replaced the row, and its remainder was lost from the pool."""
    await books.open(1000)
    first = await books.allocate(600)
    await books.deduct(100, "req-1")
    assert await books.allocate(50) == first
    assert await books.allocation() == (650, 100)
    assert await books.totals() == (1000, 650, 100, 350)
    assert await books.live() == 550


async def test_a_third_allocation_after_two_closings_is_possible(books: Books) -> None:
    """The first version allowed one inactive row a user, so that the third allocation failed."""
    await books.open(1000)
    for _ in range(3):
        await books.allocate(100)
        await books.run("UPDATE user_credit_allocations SET is_active = false")
    await books.allocate(100)
    assert await books.value("SELECT count(*) FROM user_credit_allocations") == 4


async def test_more_than_the_pool_has_is_refused_with_need_and_have(books: Books) -> None:
    await books.open(1000, 600)
    with pytest.raises(
        CheckViolationError, match="organisation org: need 401 millicredits, have 400"
    ) as caught:
        await books.allocate(401, user="bob")
    assert caught.value.constraint_name == "pool_can_pay"
    with pytest.raises(CheckViolationError, match="need 401 millicredits, have 400"):
        await books.allocate(401)
    await books.allocate(400, user="bob")
    assert await books.totals() == (1000, 1000, 0, 0)
