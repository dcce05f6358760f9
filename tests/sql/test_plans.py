"""The queries of the hot paths use the indexes that were made for them."""

from __future__ import annotations

import pytest
from support.books import Books

pytestmark = pytest.mark.own_database

EXPECTED = {
    "one_active_allocation_per_user": "SELECT 1 FROM user_credit_allocations"
    " WHERE org_id = 'org7' AND user_id = 'u33' AND is_active FOR NO KEY UPDATE",
    "allocations_by_expiry": "SELECT 1 FROM user_credit_allocations"
    " WHERE is_active AND expires_at <= now()",
    "idx_allocations_org_user_created": "SELECT 1 FROM user_credit_allocations"
    " WHERE org_id = 'org7' AND user_id = 'u33' AND NOT is_active ORDER BY created_at DESC LIMIT 1",
    "accounts_behind": "SELECT org_id, user_id FROM taximeter.accounts"
    " WHERE entry_seq > applied_seq",
    "account_entries_pkey": "SELECT delta FROM taximeter.account_entries"
    " WHERE org_id = 'org7' AND user_id = 'u33' AND entry_seq > 0 ORDER BY entry_seq",
    "charged_requests_pkey": "SELECT 1 FROM taximeter.charged_requests"
    " WHERE org_id = 'org7' AND request_id = 'r33'",
    "usage_daily_by_org_day": "SELECT sum(credits_used) FROM taximeter.usage_daily"
    " WHERE org_id = 'org7' AND day >= current_date - 30",
    "usage_monthly_by_user_pkey": "SELECT user_id, credits_to_day[31]"
    " FROM taximeter.usage_monthly_by_user"
    " WHERE org_id = 'org7' AND month >= current_date - 60",
    "idx_members_user": "SELECT org_id FROM organization_members"
    " WHERE user_id = 'u33' ORDER BY created_at LIMIT 1",
}

REWRITTEN = (
    "user_credit_allocations",
    "organization_credit_pools",
    "usage_daily",
    "usage_daily_by_org",
    "usage_monthly_by_org",
    "usage_monthly_by_user",
    "usage_monthly",
)
"""Tables whose rows of today every settle changes."""


async def test_each_hot_query_uses_its_index(books: Books) -> None:
    await books.run(
        "INSERT INTO organizations (id, org_name, slug, created_by)"
        " SELECT 'org' || n, 'n', 's' || n, 'c' FROM generate_series(1, 40) AS n;"
        "INSERT INTO organization_members (org_id, user_id)"
        " SELECT 'org' || n, 'u' || m"
        "   FROM generate_series(1, 40) AS n, generate_series(1, 50) AS m;"
        "SELECT add_credits_to_pool('org' || n, 100000, 1) FROM generate_series(1, 40) AS n;"
        "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, expires_at)"
        " SELECT org_id, user_id, 100, now() + interval '1 day' FROM organization_members;"
        "INSERT INTO user_credit_allocations (org_id, user_id, is_active)"
        " SELECT org_id, user_id, false FROM organization_members, generate_series(1, 3);"
        "UPDATE taximeter.accounts SET applied_seq = entry_seq WHERE user_id <> 'u1';"
        "INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, amount)"
        " SELECT org_id, 'r' || row_number() OVER (PARTITION BY org_id), user_id, 1"
        "   FROM organization_members;"
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, service_name, credits_used, created_at)"
        " SELECT org_id, user_id, 'by_hand', 'm', 1, now() - n * interval '10 days'"
        "   FROM organization_members, generate_series(0, 9) AS n;"
    )
    await books.run("VACUUM ANALYZE")
    for index, query in EXPECTED.items():
        plan = "\n".join(line for (line,) in await books.rows(f"EXPLAIN {query}"))
        assert index in plan, plan


async def test_used_credits_move_without_touching_an_index(books: Books) -> None:
    """Heap-only updates: settle rewrites the same allocations and pools every second."""
    await books.open(1000, 500)
    async with books.pool.acquire() as conn:
        for _ in range(20):
            async with conn.transaction():
                await conn.execute("SELECT deduct_credits('org', 'ann', 1, 's', 'm', NULL, '{}')")
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
    for table in REWRITTEN:
        updated, heap_only = await books.row(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1", table
        ) or (0, 0)
        assert updated >= 19
        assert heap_only == updated, table
