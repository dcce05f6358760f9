"""More than 90 % of an allocation used: the audit log says so, once per crossing."""

from __future__ import annotations

import json

from support.books import Books


async def exhausted(books: Books) -> list[tuple[int, int]]:
    """(allocated, used) at each crossing."""
    rows = await books.rows(
        "SELECT after::text FROM taximeter.audit_log"
        " WHERE action = 'user.allocation.exhausted' AND org_id = 'org' AND target = 'ann'"
        " ORDER BY id"
    )
    said = [json.loads(row[0]) for row in rows]
    return [(one["allocated_credits"], one["used_credits"]) for one in said]


async def test_crossing_is_told_once_and_again_after_a_raise(books: Books) -> None:
    await books.open(10_000, 1_000)
    await books.deduct(900, "r1")
    assert await exhausted(books) == [], "90 % is not beyond 90 %"
    await books.deduct(1, "r2")
    await books.deduct(50, "r3")
    assert await exhausted(books) == [(1_000, 901)]
    await books.allocate(1_000)
    await books.deduct(800, "r4")
    assert await exhausted(books) == [(1_000, 901)]
    await books.deduct(100, "r5")
    assert await exhausted(books) == [(1_000, 901), (2_000, 1_851)]


async def test_settling_tells_it(books: Books) -> None:
    await books.open(10_000, 1_000)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute("UPDATE user_credit_allocations SET used_credits = 950")
        await conn.execute("UPDATE organization_credit_pools SET used_credits = 950")
        await conn.execute(
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, credits_used, shard)"
            " VALUES ('org', 'ann', 's', 950, 0)"
        )
    assert await exhausted(books) == [(1_000, 950)]
    assert await books.rows(
        "SELECT actor FROM taximeter.audit_log WHERE action = 'user.allocation.exhausted'"
    ) == [("taximeter:settle",)]


async def test_taking_back_credits_can_cross_too(books: Books) -> None:
    await books.open(10_000, 1_000)
    await books.deduct(500, "r1")
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 540")
    assert await exhausted(books) == [(540, 500)]


async def test_closing_is_not_exhaustion(books: Books) -> None:
    await books.open(10_000, 1_000)
    await books.deduct(500, "r1")
    await books.value("SELECT taximeter.begin_closing(id, 'removal') FROM user_credit_allocations")
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 510")
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    assert await exhausted(books) == []


async def test_nothing_is_exhausted_of_nothing(books: Books) -> None:
    await books.open(10_000)
    await books.run("INSERT INTO user_credit_allocations (org_id, user_id) VALUES ('org', 'ann')")
    await books.run("UPDATE user_credit_allocations SET updated_at = now(), used_credits = 0")
    assert await exhausted(books) == []
