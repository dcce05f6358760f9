"""Lists and reports of an organisation with very many users read a page of it, and never all: by
the rows that each step of a plan has met, which no speed of a machine changes.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from taximeter.api.billing.usage_reports import USERS_MAX
from taximeter.api.sql import CREDITS, DASHBOARDS, IDENTITY, MOVES, REQUESTS, USAGE
from taximeter.api.web.paging import COUNTED_MAX

USERS = 3 * COUNTED_MAX
PAGE, DEEP = 51, USERS * 2 // 3
TODAY = date(2026, 11, 30)
MONTH = (TODAY - timedelta(days=29), TODAY)
OLD = datetime(2026, 1, 1, tzinfo=UTC)
MAKE = (Path(__file__).parents[1] / "bench/sql/large_organization.sql").read_text("utf-8")


@pytest.fixture
async def big(pool: asyncpg.Pool[asyncpg.Record]) -> asyncpg.Pool[asyncpg.Record]:
    async with pool.acquire() as conn:
        await conn.execute(MAKE.replace(":users", str(USERS)))
        await conn.execute("VACUUM ANALYZE")
    return pool


def met(plan: dict[str, Any]) -> int:
    """The most rows that one step of a plan has had in its hands."""
    rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return max([int(rows * plan["Actual Loops"]), *(met(part) for part in plan.get("Plans", ()))])


async def test_no_list_reads_more_than_its_page_and_no_count_more_than_it_says(
    big: asyncpg.Pool[asyncpg.Record],
) -> None:
    counted = COUNTED_MAX + 1
    allocation: UUID = await big.fetchval(
        "SELECT id FROM user_credit_allocations WHERE user_id = $1", f"u{DEEP}"
    )
    place = OLD + timedelta(seconds=DEEP)
    pages = {
        "members": (IDENTITY["list_members"], "big", PAGE, 0, "active", None, None),
        "members, far": (IDENTITY["list_members"], "big", PAGE, 0, "active", place, f"u{DEEP}"),
        "invited": (IDENTITY["list_members"], "big", PAGE, 0, "invited", None, None),
        "allocations": (
            CREDITS["list_allocations"],
            *("big", None, None, PAGE, 0, None, None, None),
        ),
        "allocations, far": (
            CREDITS["list_allocations"],
            *("big", None, True, PAGE, 0, True, place, allocation),
        ),
        "allocations of one": (
            CREDITS["list_allocations"],
            *("big", "u77", None, PAGE, 0, None, None, None),
        ),
        "moves": (MOVES["list_moves"], "big", None, PAGE, 0),
        "moves of one": (MOVES["list_moves"], "big", "u77", PAGE, 0),
        "audit": (IDENTITY["list_audit"], "big", None, None, PAGE, 0),
        "audit of one": (IDENTITY["list_audit"], "big", None, "u7", PAGE, 0),
        "audit of an action": (IDENTITY["list_audit"], "big", "org.rare", None, PAGE, 0),
        "audit, by a system admin": (
            IDENTITY["list_audit_of_one"],
            *(OLD, datetime(2027, 1, 1, tzinfo=UTC), None, None, PAGE, "big"),
        ),
        "requests": (
            REQUESTS["list_requests"],
            *("big", OLD, datetime(2027, 1, 1, tzinfo=UTC), *[None] * 9),
            PAGE,
        ),
        "other admins": (IDENTITY["other_admins"], "big", "u1"),
        "open invitations": (IDENTITY["open_invitations"], "big", "u7"),
        "memberships": (IDENTITY["memberships"], "u77", 500),
        "access": (IDENTITY["org_access"], "big", "u77"),
        "usage by service": (USAGE["usage_by_service"], "big", *MONTH, None),
        "usage by day": (USAGE["usage_by_period"], "big", *MONTH, None, "day"),
        "usage of one": (USAGE["own_usage_by_service"], "big", *MONTH, None, "u77"),
        "top organisations": (DASHBOARDS["top_organizations"], *MONTH, 10),
    }
    counts = {
        "members": (IDENTITY["count_members"], "big", "active", counted),
        "allocations": (CREDITS["count_allocations"], "big", None, None, counted),
        "active allocations": (CREDITS["count_allocations"], "big", None, True, counted),
        "moves": (MOVES["count_moves"], "big", None, counted),
        "audit": (IDENTITY["count_audit"], "big", None, None, counted),
        "audit of an action": (IDENTITY["count_audit"], "big", "org.often", None, counted),
        "users": (USAGE["users_with_usage"], "big", *MONTH, USERS_MAX + 1),
    }
    async with big.acquire() as conn:

        async def plan(query: str, *arguments: object) -> dict[str, Any]:
            explained = await conn.fetchval(
                f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", *arguments
            )
            return dict(json.loads(explained)[0]["Plan"])

        for name, (query, *arguments) in pages.items():
            found = await plan(query, *arguments)
            assert met(found) <= 2 * PAGE, (name, found)
        search = ("big", PAGE, "active", f"u{USERS}", COUNTED_MAX)
        found = await plan(IDENTITY["search_members"], *search)
        assert met(found) <= COUNTED_MAX + 1, found
        ids = [row["user_id"] for row in await conn.fetch(IDENTITY["search_members"], *search)]
        assert ids == [f"u{USERS}"], "a whole id is found wherever it stands"
        for name, (query, *arguments) in counts.items():
            found = await plan(query, *arguments)
            assert met(found) <= 1.1 * arguments[-1], (name, found)
            assert await conn.fetchval(query, *arguments) == arguments[-1]
