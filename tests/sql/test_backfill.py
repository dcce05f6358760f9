"""A migration that adds a rollup adds up what is there already."""

from __future__ import annotations

from typing import Any

import asyncpg

from taximeter.api.processes.migrate import migrate

ROLLUPS = {
    "taximeter.usage_monthly_by_user": "SELECT org_id, user_id, month, requests_to_day,"
    " credits_to_day FROM taximeter.usage_monthly_by_user ORDER BY 1, 2, 3",
    "taximeter.usage_monthly_by_org": "SELECT org_id, month, writer, requests_to_day,"
    " credits_to_day, requests, credits_used FROM taximeter.usage_monthly_by_org ORDER BY 1, 2, 3",
    "taximeter.usage_monthly": "SELECT month, array_agg(total ORDER BY nth) FROM ("
    "  SELECT month, nth, sum(total)::bigint AS total FROM taximeter.usage_monthly,"
    "    unnest(requests_to_day || credits_to_day) WITH ORDINALITY AS totals (total, nth)"
    "   GROUP BY 1, 2) AS of_all GROUP BY 1 ORDER BY 1",
}


async def rollups(conn: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {name: [tuple(row) for row in await conn.fetch(sql)] for name, sql in ROLLUPS.items()}


async def test_running_totals_of_usage_that_was_there_before(empty_database_url: str) -> None:
    migrate(empty_database_url)
    conn = await asyncpg.connect(empty_database_url)
    try:
        await conn.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by)"
            " VALUES ('o', 'o', 'o', 'a');"
            "SELECT add_credits_to_pool('o', 100000, 1);"
            "SELECT allocate_credits_to_user('o', 'u1', 90000, 'b');"
            "SELECT deduct_credits('o', 'u1', n, 's', 'm', 'r' || n, '{}')"
            "  FROM generate_series(1, 9) AS n;"
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, service_name, credits_used, created_at)"
            " SELECT 'o' || n % 2, 'u' || n % 3, 'by_hand', 'm' || n % 5, n,"
            "        timestamptz '2027-12-25 12:00+00' + n * interval '7 hours'"
            "   FROM generate_series(1, 400) AS n;"
            # What is taken back is negative there.
            "DELETE FROM credit_usage_attribution WHERE credits_used % 7 = 0"
        )
        before = await rollups(conn)
        assert len(before["taximeter.usage_monthly_by_user"]) > 20
        while await conn.fetchval("SELECT to_regclass('taximeter.usage_monthly_by_user')"):
            migrate(empty_database_url, "down")
        months = await conn.fetch(
            "SELECT org_id, month, writer, requests, credits_used"
            " FROM taximeter.usage_monthly_by_org ORDER BY 1, 2, 3"
        )
        assert [tuple(row) for row in months] == [
            (*row[:3], *row[5:]) for row in before["taximeter.usage_monthly_by_org"]
        ]
        migrate(empty_database_url)
        assert await rollups(conn) == before
    finally:
        await conn.close()
