"""What closed allocations have used stands apart: the guide's query matches always, also in books
that were kept before there was such a column.
"""

from __future__ import annotations

import asyncpg
import pytest
from support.books import Books

from taximeter.api.processes.migrate import migrate

# As the guide has it, with "Should match!" below it.
GUIDES_QUERY = """
SELECT 'Allocation' AS type, SUM(allocated_credits) / 1000.0 AS value
FROM user_credit_allocations WHERE org_id = 'org' AND is_active = TRUE
UNION ALL
SELECT 'Pool Allocated', allocated_credits / 1000.0
FROM organization_credit_pools WHERE org_id = 'org'
"""
POOL = (
    "SELECT total_credits, allocated_credits, closed_credits, used_credits, available_credits"
    " FROM organization_credit_pools WHERE org_id = 'org'"
)


async def matches(books: Books) -> bool:
    of_rows, of_pool = await books.rows(GUIDES_QUERY)
    return bool(of_rows[1] == of_pool[1])


async def test_closing_moves_what_was_used(books: Books) -> None:
    await books.open(1000, 500)
    await books.allocate(200, user="bob")
    await books.deduct(120, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'ann'")
    assert await books.row(POOL) == (1000, 200, 120, 120, 680)
    assert await matches(books)
    await books.allocate(50)
    assert await books.row(POOL) == (1000, 250, 120, 120, 630)
    assert await matches(books)


async def test_one_that_is_used_up_moves_too_although_its_figures_stay(books: Books) -> None:
    await books.open(1000, 100)
    await books.allocate(1, user="bob")
    await books.deduct(100, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'ann'")
    assert await books.row(POOL) == (1000, 1, 100, 100, 899)
    assert await matches(books)


async def test_expiry_and_renewal(books: Books) -> None:
    await books.open(1000, 300)
    await books.deduct(120, "req-1")
    await books.run(
        "UPDATE user_credit_allocations SET expires_at = now(), auto_renew = true,"
        " created_at = now() - interval '1 day'"
    )
    assert await books.value("SELECT deactivate_expired_allocations()") == 1
    assert await books.row(POOL) == (1000, 300, 120, 120, 580)
    assert await matches(books)


async def test_an_allocation_that_opens_again_takes_its_part_along(books: Books) -> None:
    await books.open(100, 100)
    await books.deduct(30, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    await books.run("UPDATE user_credit_allocations SET is_active = true")
    assert await books.row(POOL) == (100, 30, 0, 30, 70)
    with pytest.raises(asyncpg.CheckViolationError, match="need 71 millicredits, have 70"):
        await books.run("UPDATE user_credit_allocations SET allocated_credits = 101")


async def test_a_late_charge_of_a_closed_row_is_closed(books: Books) -> None:
    """As settle adds it: the pool pays."""
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used,"
            " shard, epoch, seq) VALUES ('org', 'ann', 's', 40, 0, 1, 1)"
        )
        await conn.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 40,"
            " used_credits = used_credits + 40"
        )
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 40")
    assert await books.row(POOL) == (1000, 0, 40, 40, 960)


async def test_closed_is_a_sum_and_not_written_by_hand(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(100, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    with pytest.raises(asyncpg.RestrictViolationError, match="sums of allocations; change those"):
        await books.run("UPDATE organization_credit_pools SET closed_credits = 0")
    with pytest.raises(asyncpg.RestrictViolationError, match="allocated or was used"):
        await books.run("UPDATE organization_credit_pools SET total_credits = 99")
    await books.run("DELETE FROM user_credit_allocations")
    assert await books.row(POOL) == (1000, 0, 0, 0, 1000)


async def applied(url: str) -> bool:
    """Whether the column is there."""
    conn = await asyncpg.connect(url)
    try:
        return bool(
            await conn.fetchval(
                "SELECT true FROM pg_attribute WHERE attname = 'closed_credits'"
                " AND attrelid = 'organization_credit_pools'::regclass AND NOT attisdropped"
            )
        )
    finally:
        await conn.close()


async def test_the_books_of_a_system_that_ran_before(empty_database_url: str) -> None:
    url = empty_database_url
    migrate(url)
    while await applied(url):
        migrate(url, "down")
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        old = Books(pool)
        await old.open(1000, 500)
        await old.allocate(100, user="bob")
        await old.deduct(120, "req-1")
        await old.deduct(100, "req-2", user="bob")
        close = "UPDATE user_credit_allocations SET is_active = false WHERE user_id = $1"
        await old.run(close, "ann")
        await old.run(close, "bob")
        await old.allocate(300)
        await old.deduct(7, "req-3")
        await old.open(50, 40, org="other")
        assert not await matches(old)
        assert await old.totals() == (1000, 520, 227, 480)
        entries = await old.entries()
    migrate(url)
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        books = Books(pool)
        assert await books.row(POOL) == (1000, 300, 220, 227, 480)
        assert await matches(books)
        # What users may spend is untouched.
        assert await books.entries() == entries
        await books.prove()
        await books.run(close, "ann")
        assert await books.row(POOL) == (1000, 0, 227, 227, 773)
    migrate(url, "down")
    while await applied(url):
        migrate(url, "down")
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        assert await Books(pool).totals() == (1000, 227, 227, 773)
