"""The tables and functions that existing users rely on: a test per row, named after it."""

from __future__ import annotations

from typing import Any

import pytest
from support.books import Books

# table -> primary key, other keys, generated columns, values that a column takes.
TABLES: dict[str, tuple[str, list[str], dict[str, str], dict[str, set[str]]]] = {
    "organizations": ("id", ["slug"], {}, {}),
    "organization_members": ("org_id, user_id", [], {}, {"role": {"admin", "member"}}),
    "organization_subscriptions": (
        "id",
        ["org_id"],
        {},
        {"status": {"active", "canceled", "past_due"}},
    ),
    "organization_credit_pools": (
        "org_id",
        [],
        {"available_credits": "((total_credits - allocated_credits) - closed_credits)"},
        {},
    ),
    "user_credit_allocations": (
        "id",
        ["org_id, user_id"],
        {"remaining_credits": "(allocated_credits - used_credits)"},
        {},
    ),
    "credit_usage_attribution": ("created_at, id", [], {}, {}),
    "org_billing_history": ("id", [], {}, {}),
}

KEYS = (
    "SELECT string_agg(attname, ', ' ORDER BY array_position(indkey::int2[], attnum))"
    "  FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
    " WHERE indrelid = $1::text::regclass AND indisunique AND indisprimary = $2"
    " GROUP BY indexrelid"
)
GENERATED = (
    "SELECT attname, pg_get_expr(adbin, adrelid) FROM pg_attribute"
    "  JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
    " WHERE attrelid = $1::text::regclass AND attgenerated = 's'"
)
CHECKS = (
    "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conrelid = $1::text::regclass AND contype = 'c'"
)


@pytest.mark.parametrize("table", TABLES)
async def test_table(books: Books, table: str) -> None:
    """The columns of each stand in test_tables.py."""
    primary, unique, generated, values = TABLES[table]
    assert [row[0] for row in await books.rows(KEYS, table, True)] == [primary]
    others = [row[0] for row in await books.rows(KEYS, table, False)]
    assert set(unique) <= set(others)
    found = {name: expression for name, expression in await books.rows(GENERATED, table)}
    assert found == generated
    checks = " ".join(row[0] for row in await books.rows(CHECKS, table))
    for column, words in values.items():
        assert f"({column} = ANY" in checks
        assert all(f"'{word}'" in checks for word in words)


async def test_at_most_one_active_allocation_and_any_number_of_inactive_ones(books: Books) -> None:
    await books.open(1000, 10)
    for _ in range(3):
        await books.run("UPDATE user_credit_allocations SET is_active = false WHERE is_active")
        await books.allocate(10)
    active = "SELECT count(*) FILTER (WHERE is_active), count(*) FROM user_credit_allocations"
    assert await books.row(active) == (1, 4)


# function -> what it returns, a call with arguments as the guide writes them, its answer.
ARGUMENTS = "'org'::VARCHAR, 'ann'::VARCHAR"
FUNCTIONS: dict[str, tuple[str, str, Any]] = {
    "has_sufficient_credits": (
        "boolean",
        f"SELECT has_sufficient_credits({ARGUMENTS}, 5000000::BIGINT)",
        True,
    ),
    "deduct_credits": (
        "TABLE(success boolean, remaining_credits bigint)",
        "SELECT (success, remaining_credits)::text FROM deduct_credits("
        f"{ARGUMENTS}, 50000::BIGINT, 'test'::VARCHAR, 'm'::VARCHAR, 'r1'::VARCHAR, '{{}}'::JSONB)",
        "(t,4950000)",
    ),
    "add_credits_to_pool": (
        "void",
        "SELECT add_credits_to_pool('org'::VARCHAR, 1000::BIGINT, 1.00::DECIMAL)::text",
        "",
    ),
    "allocate_credits_to_user": (
        "uuid",
        f"SELECT allocate_credits_to_user({ARGUMENTS}, 1000::BIGINT, 'system'::VARCHAR)"
        " IS NOT NULL",
        True,
    ),
    "deactivate_expired_allocations": ("integer", "SELECT deactivate_expired_allocations()", 0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_function(books: Books, function: str) -> None:
    """What each does in full stands in test_functions.py, test_deduct.py and test_expiry.py."""
    returns, call, answer = FUNCTIONS[function]
    await books.open(10_000_000, 5_000_000)
    found = "SELECT pg_get_function_result(oid) FROM pg_proc WHERE proname = $1"
    assert await books.value(found, function) == returns
    assert await books.value(call) == answer
    await books.prove()
