"""A year of usage of a whole system, made in minutes: what figures about large tables are measured
on.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.guardian import ensure_shards

_SQL: Final = load_queries("history", "bench")
_YEAR: Final = timedelta(days=365)
_TIMEOUT_S: Final = 7_200.0
_AT_ONCE: Final = 3
"""Connections that write, a month each."""
_TOTALS: Final = re.compile(r"totals_of\((\w+)\)")


@dataclass(frozen=True, slots=True)
class History:
    """How much of it: `rows` of usage over twelve months, most of it lately, of so many
    organisations; the largest has a fifth of all rows, and `members_of_largest` members.
    """

    rows: int = 10_000_000
    organisations: int = 10_000
    members_of_largest: int = 1_500

    @property
    def largest(self) -> str:
        """The organisation with the most of everything."""
        return self.org_id(1)

    @staticmethod
    def org_id(number: int) -> str:
        """The organisation of a number, counted from the largest."""
        return f"org-{number:06}"

    def events_before(self, part: float) -> int:
        """How many requests there are before a part of the year: three times as many at its end as
        at its beginning.
        """
        return math.ceil(self.rows * (part + part * part) / 2)


async def make_history(
    stores: Stores, history: History, progress: Callable[[str], None] = lambda message: None
) -> float:
    """Fill a fresh, migrated database as its superuser; its one shard is left to be opened by the
    guardian. Returns the seconds it took.

    Usage goes in month by month, and the rollups that the triggers would have kept are added up
    once at the end. Allocations, pools, charged requests and entries belong to it, so that
    `taximeter check` can prove everything.
    """
    started = time.monotonic()
    pool: Any = stores.pool
    end = datetime.now(UTC)
    begin = end - _YEAR
    async with pool.acquire() as conn:

        async def run(name: str, *values: Any) -> None:
            await conn.execute(_totals(_SQL[name]), *values, timeout=_TIMEOUT_S)
            progress(f"{name} after {time.monotonic() - started:.0f} s")

        async with conn.transaction():
            await conn.execute(_SQL["mark_loading"])
            await run("make_organizations", history.organisations, history.members_of_largest)
            await run("make_allocations")
        await run("drop_request_key")
        months = list(_months(begin, end))
        for since, _ in months:
            await _run_of_month(conn, "drop_month", since)
        waiting = iter(months)

        async def make_months() -> None:
            async with pool.acquire() as own:
                for since, until in waiting:
                    await _make_month(own, history, begin, since, until)
                    progress(f"{since:%Y-%m} after {time.monotonic() - started:.0f} s")

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(make_months())
        for since, _ in months:
            async with conn.transaction():
                await conn.execute(_SQL["mark_loading"])
                await _run_of_month(conn, "make_charges", since)
        await run("add_request_key")
        async with conn.transaction():
            await conn.execute(_SQL["mark_loading"])
            for name in ("names", "days", "days_by_org", "months_by_user", "months_by_org"):
                await run(f"add_{name}")
            for name in ("months", "used", "used_to_pools"):
                await run(f"add_{name}")
        await ensure_shards(stores, 1)
        await run("begin_second_epoch")
        await run("tidy")
    return time.monotonic() - started


def _months(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Every month that the year lies in, and the one after it, which is empty."""
    month = begin.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month <= end:
        after = (month + timedelta(days=32)).replace(day=1)
        yield month, after
        month = after


async def _make_month(
    conn: Any, history: History, begin: datetime, since: datetime, until: datetime
) -> None:
    """Charges of one month, and their usage as a part of the attribution."""
    # An event too many on each side: the statement leaves out what is not of the month.
    first = max(1, history.events_before(max(0.0, (since - begin) / _YEAR)) - 1)
    last = min(history.rows, history.events_before(min(1.0, (until - begin) / _YEAR)) + 1)
    async with conn.transaction():
        await conn.execute(_SQL["mark_loading"])
        await _run_of_month(conn, "make_month", since)
        await _run_of_month(
            conn, "make_usage", since, since, until, begin, _YEAR, history.rows,
            history.organisations, history.members_of_largest, first, last,
        )  # fmt: skip
        await _run_of_month(conn, "attach_month", since)
        await _run_of_month(conn, "guard_month", since, f"attribution_{since:%Y_%m}")


async def _run_of_month(conn: Any, block: str, month: datetime, *values: Any) -> None:
    """A statement about the partition of a month, whose name and bounds are put in."""
    text = _SQL[block].replace("partition_name", f"attribution_{month:%Y_%m}")
    text = text.replace("month_from", month.isoformat())
    after = (month + timedelta(days=32)).replace(day=1)
    text = text.replace("month_before", after.isoformat())
    await conn.execute(text, *values, timeout=_TIMEOUT_S)


def _totals(text: str) -> str:
    """31 running totals of a column, for each `totals_of` of it."""

    def totals(found: re.Match[str]) -> str:
        each = (
            f"coalesce(sum({found[1]}) FILTER (WHERE day <= {day}), 0)::bigint"
            for day in range(1, 32)
        )
        return f"ARRAY[{', '.join(each)}]"

    return _TOTALS.sub(totals, text)


async def history_size(pool: Any) -> dict[str, int]:
    """What there is now: rows, organisations, members, bytes."""
    return dict(await pool.fetchrow(_SQL["size"]))
