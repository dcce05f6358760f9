"""While a transaction settles, what Redis has charged already is not charged twice."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
from support.books import Books

ATTRIBUTION = (
    *("org_id", "user_id", "service_type", "service_name", "credits_used", "request_id"),
    *("request_metadata", "created_at", "shard", "epoch", "seq"),
)
REQUESTS = ("org_id", "request_id", "phase", "user_id", "shard", "epoch", "seq", "amount")


async def settle(
    conn: asyncpg.Connection[asyncpg.Record], amounts: list[int], user: str = "ann"
) -> None:
    """Book one event a given amount, as settle does; the caller's transaction is open."""
    await conn.execute("SET LOCAL taximeter.settling = 'on'")
    numbered = list(enumerate(amounts, start=1))
    await conn.copy_records_to_table(
        "charged_requests",
        schema_name="taximeter",
        columns=REQUESTS,
        records=[("org", f"{user}-{n}", 0, user, 0, 1, n, amount) for n, amount in numbered],
    )
    now = datetime.now(UTC)
    await conn.copy_records_to_table(
        "credit_usage_attribution",
        columns=ATTRIBUTION,
        records=[
            ("org", user, "llm", "gpt", amount, f"{user}-{n}", "{}", now, 0, 1, n)
            for n, amount in numbered
        ],
    )


async def test_used_moves_without_an_entry_and_without_the_pool(books: Books) -> None:
    await books.open(1000, 500)
    async with books.pool.acquire() as conn, conn.transaction():
        await settle(conn, [30, 20])
        await conn.execute("UPDATE user_credit_allocations SET used_credits = used_credits + 50")
        # The triggers left the pool to settle.
        assert await conn.fetchval("SELECT used_credits FROM organization_credit_pools") == 0
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 50")
    assert await books.entries() == [(1, 500, "allocation")]
    assert await books.totals() == (1000, 500, 50, 500)
    assert await books.live() == 450
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == 0
    assert await books.rows("SELECT requests, credits_used FROM taximeter.usage_daily") == [(2, 50)]


async def test_the_function_is_not_called_for_what_settle_does_most(books: Books) -> None:
    await books.open(1000, 500)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "CREATE OR REPLACE FUNCTION taximeter.allocation_changed() RETURNS trigger"
            " LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$"
        )
        await settle(conn, [30])
        await conn.execute("UPDATE user_credit_allocations SET used_credits = used_credits + 30")
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 30")


async def test_a_charge_of_a_closed_allocation_is_given_back_and_the_pool_pays(
    books: Books,
) -> None:
    await books.open(1000, 1000)
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    await books.allocate(1000, user="bob")
    async with books.pool.acquire() as conn, conn.transaction():
        await settle(conn, [40])
        await conn.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 40,"
            " used_credits = used_credits + 40 WHERE user_id = 'ann'"
        )
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 40")
    assert (await books.entries())[-1] == (3, 40, "give_back")
    assert await books.live() == 0
    # What was earned is booked although nothing was left to pay it.
    assert await books.totals() == (1000, 1000, 40, -40)


async def test_a_charge_of_a_deleted_allocation_makes_a_closed_row_and_a_pool(books: Books) -> None:
    await books.open(0)
    async with books.pool.acquire() as conn, conn.transaction():
        await settle(conn, [40])
        await conn.execute(
            "INSERT INTO user_credit_allocations"
            " (org_id, user_id, allocated_credits, used_credits, is_active)"
            " VALUES ('org', 'ann', 40, 40, false)"
        )
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 40")
    assert await books.entries() == [(1, 40, "give_back")]
    assert await books.totals() == (0, 0, 40, -40)


async def test_more_than_was_allocated_can_be_settled(books: Books) -> None:
    """An actual cost may exceed its hold: the event is true, so it is booked."""
    await books.open(1000, 50)
    async with books.pool.acquire() as conn, conn.transaction():
        await settle(conn, [80])
        await conn.execute("UPDATE user_credit_allocations SET used_credits = used_credits + 80")
        await conn.execute("UPDATE organization_credit_pools SET used_credits = used_credits + 80")
    assert await books.live() == -30
    assert await books.deduct(1, "req-1") == (False, -30)
    assert await books.value("SELECT has_sufficient_credits('org', 'ann', 1)") is False


async def test_a_repair_is_an_entry_of_its_own(books: Books) -> None:
    await books.open(1000, 50)
    numbers = [
        await books.value("SELECT taximeter.append_entry('org', 'ann', $1, 'repair', 'r')", delta)
        for delta in (30, 0, -30)
    ]
    assert numbers == [2, None, 3]
    assert await books.rows(
        "SELECT delta, kind, reference FROM taximeter.account_entries WHERE kind = 'repair'"
        " ORDER BY entry_seq"
    ) == [(30, "repair", "r"), (-30, "repair", "r")]


async def test_the_setting_ends_with_its_transaction(books: Books) -> None:
    await books.open(1000, 500)
    async with books.pool.acquire() as conn:
        async with conn.transaction():
            await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute("UPDATE user_credit_allocations SET used_credits = 7")
    assert await books.live() == 493
    assert await books.totals() == (1000, 500, 7, 500)
