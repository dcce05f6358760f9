"""What is asked of one organisation with a million users, against what is promised for any."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.figures import BUFFERS, QUESTIONS, Question, ask, figure, usage_steps
from bench.harness import Figure, percentile, value
from bench.machine import own_processor_s
from bench.peers import open_deduction_pool
from bench.servers import Servers
from taximeter.api.billing.usage_reports import last_days
from taximeter.api.routes.usage import ROWS_MAX
from taximeter.api.sql import IDENTITY, MOVES, REQUESTS, USAGE
from taximeter.api.web.paging import COUNTED_MAX
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.closing import BATCH, end_accounts
from taximeter.settler.proof.check import check
from taximeter.settler.shards.guardian import ensure_shards, guard

_SQL: Final = load_queries("figures", "bench")
MAKE: Final = Path(__file__).parent / "sql" / "large_organization.sql"
ORG: Final = "big"
SAMPLES, FEW, TIMEOUT_S = 100, 5, 3_600.0
BATCHES: Final = 100
AS_THEY_ARE: Final = ("user_organizations", "sufficient", "pool", "allocations")
LISTS: Final = (
    Question(
        "usage",
        "usage of 30 days, nobody's own",
        50.0,
        lambda org_id, user_id: usage_steps(org_id, user_id, with_users=False),
    ),
    Question(
        "members",
        "members, a page of 50 and their number",
        20.0,
        lambda org_id, _: [
            (IDENTITY["list_members"], (org_id, 51, 0, "active", None, None)),
            (IDENTITY["count_members"], (org_id, "active", COUNTED_MAX + 1)),
        ],
    ),
    Question(
        "moves",
        "moves of one, a page of 50 and their number",
        20.0,
        lambda org_id, user_id: [
            (MOVES["list_moves"], (org_id, user_id, 50, 0)),
            (MOVES["count_moves"], (org_id, user_id, COUNTED_MAX + 1)),
        ],
    ),
    Question(
        "audit",
        "audit log, a page of 50 and its number",
        20.0,
        lambda org_id, _: [
            (IDENTITY["list_audit"], (org_id, None, None, 50, 0)),
            (IDENTITY["count_audit"], (org_id, None, None, COUNTED_MAX + 1)),
        ],
    ),
    Question(
        "requests",
        "single charges, a page of 50",
        20.0,
        lambda org_id, _: [
            (
                REQUESTS["list_requests"],
                (org_id, *last_days(), *[None] * 9, 51),
            )
        ],
    ),
)
BY_USER: Final = Question(
    "by_user",
    "usage of 30 days by user, as it is asked for",
    1.0,
    lambda org_id, _: [(USAGE["usage_by_user"], (org_id, *last_days(), ROWS_MAX))],
)


async def run(servers: Servers) -> list[Figure]:
    """Make it, and ask it everything, for users drawn at random."""
    users, dice = servers.scale.large_users, random.Random(10)
    accounts = [(ORG, f"u{dice.randint(1, users)}") for _ in range(SAMPLES)]
    async with servers.database(BUFFERS) as url:
        conn: Any = await asyncpg.connect(url)
        try:
            started = time.monotonic()
            make = MAKE.read_text("utf-8").replace(":users", str(users))
            await conn.execute(make, timeout=TIMEOUT_S)
            await conn.execute("VACUUM ANALYZE", timeout=TIMEOUT_S)
            made = time.monotonic() - started
            await conn.execute(_SQL["alone"])
            figures = [
                Figure("large_made", f"an organisation of {users:,} users", "s", value(made))
            ]
            asked = [*(one for one in QUESTIONS if one.name in AS_THEY_ARE), *LISTS]
            for question in asked:
                took = await ask(conn, question, accounts)
                figures.append(figure(question, took, ", large"))
            by_user = [one.clock for one in await ask(conn, BY_USER, accounts[:FEW])]
        finally:
            await conn.close()
        figures += await _checked_and_ended(servers, url, users)
    title = f"{BY_USER.title}: p50 of {FEW}"
    return [*figures, Figure("large_by_user", title, "ms", value(percentile(by_user, 0.5)))]


async def _checked_and_ended(servers: Servers, url: str, users: int) -> list[Figure]:
    """What proving its books takes, and how long settling may wait for a batch of its end."""
    async with servers.redis() as (_, redis), await open_deduction_pool(url) as pool:
        stores = Stores(pool, redis, f"{servers.prefix}large")
        await ensure_shards(stores, 1)
        await guard(stores, 0, 1)
        began, processor = time.monotonic(), own_processor_s()
        await check(stores)  # Its rows were written past the triggers, so that it finds something.
        clock, processor = time.monotonic() - began, own_processor_s() - processor
        await pool.execute(_SQL["end_large"])
        batches = []
        for _ in range(min(BATCHES, users // BATCH)):
            began = time.monotonic()
            if not await end_accounts(pool, ORG):
                break
            batches.append((time.monotonic() - began) * 1000)
        await redis.delete(*stores.keys(0).batch())
    what = f"check of {users:,} users"
    return [
        Figure("large_check", what, "s", value(clock)),
        Figure("large_check_cpu", f"{what}: our processor", "s", value(processor)),
        Figure(
            "large_end",
            f"its end: a batch of {BATCH} users, p50",
            "ms",
            value(percentile(batches, 0.5)),
            note=f"{len(batches)} batches, at most {max(batches):.0f} ms",
        ),
    ]
