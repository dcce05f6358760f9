"""The figures that are promised to existing users, by the clock of the server, on a year of usage.

Each question is asked of many organisations drawn at random, in the application's own SQL, twice;
the second time counts, since the first reads from the disk what nobody has read since the start.
Its time is what Postgres says that planning and executing took.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.harness import BenchFailed, Figure, Target, percentile, value
from bench.history import History, history_size, make_history
from bench.servers import Servers
from taximeter.api.billing.usage_reports import USERS_MAX, last_days
from taximeter.api.routes.overview import TOP_MAX, TREND_DAYS
from taximeter.api.routes.usage import ROWS_MAX
from taximeter.api.sql import CREDITS, DASHBOARDS, IDENTITY, USAGE
from taximeter.api.web.paging import COUNTED_MAX
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.proof.check import check
from taximeter.settler.shards.guardian import guard

_SQL: Final = load_queries("figures", "bench")
SPARE: Final = 5.0
"""How many times faster than promised a figure has to be."""
BUFFERS: Final = "shared_buffers=2GB"
"""What a Postgres with so much usage would be given; the embedded one has 64 MB otherwise."""

Step = tuple[str, tuple[Any, ...]]
"""A query and its arguments."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the promise in milliseconds, and its queries for a user of an organisation."""

    name: str
    title: str
    promised_ms: float
    steps: Callable[[str, str], list[Step]]


def usage_steps(org_id: str, _: str, *, with_users: bool = True) -> list[Step]:
    """A report of 30 days, as the API asks for it; users are added up where they are few."""
    scope = (org_id, *last_days())
    by_user: list[Step] = [(USAGE["usage_by_user"], (*scope, ROWS_MAX))] if with_users else []
    return [
        (USAGE["users_with_usage"], (*scope, USERS_MAX + 1)),
        *by_user,
        (USAGE["usage_by_service"], (*scope, None)),
        (USAGE["usage_by_period"], (*scope, None, "day")),
    ]


def overview_steps(_: str, __: str) -> list[Step]:
    """The dashboard of the whole system."""
    return [
        (DASHBOARDS["system_metrics"], ()),
        (DASHBOARDS["subscription_distribution"], ()),
        (DASHBOARDS["top_organizations"], (*last_days(), TOP_MAX)),
        (DASHBOARDS["usage_trend"], last_days(TREND_DAYS)),
    ]


QUESTIONS: Final = (
    Question(
        "user_organizations",
        "organisations of a user",
        5.0,
        lambda org_id, user_id: [(IDENTITY["memberships"], (user_id, 500))],
    ),
    Question(
        "sufficient",
        "has_sufficient_credits",
        10.0,
        lambda org_id, user_id: [(_SQL["sufficient"], (org_id, user_id, 50))],
    ),
    Question(
        "deduct",
        "deduct_credits",
        15.0,
        lambda org_id, user_id: [
            (_SQL["deduct"], (org_id, user_id, 50, f"figure-{random.getrandbits(64):x}"))
        ],
    ),
    Question("pool", "pool", 5.0, lambda org_id, _: [(CREDITS["pool"], (org_id,))]),
    Question(
        "allocations",
        "allocations, a page of 50 and their number",
        20.0,
        lambda org_id, _: [
            (CREDITS["count_allocations"], (org_id, None, None, COUNTED_MAX + 1)),
            (CREDITS["list_allocations"], (org_id, None, None, 51, 0, None, None, None)),
        ],
    ),
    Question("usage", "usage of 30 days", 50.0, usage_steps),
    Question("overview", "system overview", 200.0, overview_steps),
)


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds of one question: by the server's clock, and of its processor, which a busy
    machine does not stretch (None where the server's process cannot be looked at).
    """

    clock: float
    processor: float | None


async def server_time(conn: Any, steps: list[Step], seen: set[str] | None = None) -> Took:
    """What the server needs for all of them. `seen` collects the tables that were read from end to
    end.
    """
    total = 0.0
    process = Path(f"/proc/{conn.get_server_pid()}/schedstat")
    before = _on_processor_ms(process)
    for query, arguments in steps:
        explained = json.loads(await conn.fetchval(_SQL["explain"] + query, *arguments))[0]
        total += explained["Planning Time"] + explained["Execution Time"]
        if seen is not None:
            seen |= tables_scanned(explained["Plan"])
    after = _on_processor_ms(process)
    return Took(total, None if before is None or after is None else after - before)


def _on_processor_ms(process: Path) -> float | None:
    try:
        return int(process.read_text("ascii").split()[0]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def tables_scanned(plan: Mapping[str, Any]) -> set[str]:
    """The tables that a plan reads from end to end."""
    found = {str(plan["Relation Name"])} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(tables_scanned(part) for part in plan.get("Plans", ())))


async def ask(
    conn: Any, question: Question, accounts: list[tuple[str, str]], seen: set[str] | None = None
) -> list[Took]:
    """What each account took, when everything was asked once before. What a question changes is
    undone.
    """
    found: list[Took] = []
    for counts in (False, True):
        for account in accounts:
            transaction = conn.transaction()
            await transaction.start()
            took = await server_time(conn, question.steps(*account), seen)
            await transaction.rollback()
            if counts:
                found.append(took)
    return found


def figure(question: Question, found: list[Took], suffix: str = "") -> Figure:
    """The slowest hundredth against the promise."""
    clock = [one.clock for one in found]
    middle, slow = percentile(clock, 0.5), percentile(clock, 0.99)
    processor = [one.processor for one in found if one.processor is not None]
    of_processor = ""
    if processor:
        of_processor = f", p99 of its processor {percentile(processor, 0.99):.2f} ms"
    return Figure(
        f"figure_{question.name}{'_largest' if suffix else ''}",
        f"{question.title}{suffix}: p99 of {len(found)}, server side",
        "ms",
        value(slow),
        target=Target(question.promised_ms / SPARE, "at most", "value", "python"),
        note=f"promised {question.promised_ms:g} ms, p50 {middle:.2f} ms{of_processor},"
        f" p99 {question.promised_ms / slow:.0f} times faster",
        number=11,
    )


async def measure(stores: Stores, history: History, samples: int) -> list[Figure]:
    """Ask everything of random organisations, and what grows with them of the largest one too."""
    pool: Any = stores.pool
    dice = random.Random(10)  # The same organisations in every run.
    numbers = [dice.randint(1, history.organisations) for _ in range(samples)]
    accounts = [
        (history.org_id(number), f"{history.org_id(number)}-user-{dice.randint(1, 3)}")
        for number in numbers
    ]
    largest = [
        (history.largest, f"{history.largest}-user-{dice.randint(1, 1000)}")
        for _ in range(max(20, samples // 10))
    ]
    figures = []
    async with pool.acquire() as conn:
        await conn.execute(_SQL["alone"])
        for question in QUESTIONS:
            some = largest if question.name == "overview" else accounts
            figures.append(figure(question, await ask(conn, question, some)))
        for question in QUESTIONS:
            if question.name in ("allocations", "usage"):
                title = ", largest organisation"
                figures.append(figure(question, await ask(conn, question, largest), title))
    return figures


async def run(servers: Servers) -> list[Figure]:
    """Make the history, prove it, ask."""
    scale = servers.scale
    history = History(
        scale.history_rows,
        scale.history_organisations,
        scale.history_members,
    )
    async with servers.redis() as (redis_url, _), servers.database(BUFFERS) as database_url:
        settings = StoreSettings(
            database_url=database_url,
            redis_url=redis_url,
            key_prefix=servers.prefix,
            database_timeout_s=3_600,
        )
        async with open_stores(settings) as stores:
            took = await make_history(stores, history, _say)
            size = await history_size(stores.pool)
            await guard(stores, 0, 1)
            started = time.monotonic()
            report = await check(stores)
            if not report.holds:
                wrong = [one.violations[:3] for one in report.invariants if not one.holds]
                raise BenchFailed(f"the history does not prove: {wrong}")
            proved = time.monotonic() - started
            figures = await measure(stores, history, scale.figure_samples)
    made = Figure(
        "history",
        f"history of {size['rows']:,} rows, {size['organisations']:,} organisations,"
        f" {size['members']:,} members",
        "s",
        value(took),
        note=f"{size['bytes'] / 2**30:.1f} GiB; proved in {proved:.0f} s",
    )
    return [made, *figures]


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{message}", end="", file=sys.stderr)
