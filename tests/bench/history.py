"""A year of usage of a whole system, made in minutes: what figures about large tables are measured
on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.guardian import ensure_shards

_SQL: Final = load_queries("history", "bench")
_DAYS: Final = 365
_TIMEOUT_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class History:
    """How much of it: `rows` of usage over twelve months, most of it lately, of so many
    organisations; the largest has a ninth of all rows, and `members_of_largest` members.
    """

    rows: int = 10_000_000
    organisations: int = 10_000
    members_of_largest: int = 1_500
    batches: int = 365
    """Transactions that the usage goes in by, each a stretch of time."""

    @property
    def largest(self) -> str:
        """The organisation with the most of everything."""
        return self.org_id(1)

    @staticmethod
    def org_id(number: int) -> str:
        """The organisation of a number, counted from the largest."""
        return f"org-{number:06}"


async def make_history(
    stores: Stores, history: History, progress: Callable[[str], None] = lambda message: None
) -> float:
    """Fill a fresh, migrated database; its one shard is left to be opened by the guardian. Returns
    the seconds it took.

    Usage goes in by stretches of time, as settle books it: the triggers keep the rollups.
    Allocations, pools, charged requests and entries belong to it, so that `taximeter check` can
    prove everything.
    """
    started = time.monotonic()
    pool: Any = stores.pool
    end = datetime.now(UTC)
    begin = end - timedelta(days=_DAYS)
    async with pool.acquire() as conn:
        await conn.execute(_SQL["make_months"], begin.date(), end.date(), timeout=_TIMEOUT_S)
        async with conn.transaction():
            await conn.execute(_SQL["mark_settling"])
            await conn.execute(
                _SQL["make_organizations"],
                history.organisations,
                history.members_of_largest,
                timeout=_TIMEOUT_S,
            )
            await conn.execute(_SQL["make_allocations"], timeout=_TIMEOUT_S)
            await conn.execute(_SQL["drop_request_key"])
        made = 0
        last, stretch = history.batches - 1, timedelta(days=_DAYS) / history.batches
        for batch in range(history.batches):
            # Three times as much at the end as at the beginning.
            share = (1 + 2 * batch / max(1, last)) / 2 / history.batches
            count = history.rows - made if batch == last else round(history.rows * share)
            async with conn.transaction():
                await conn.execute(_SQL["mark_settling"])
                await conn.execute(
                    _SQL["make_usage"],
                    begin + stretch * batch,
                    begin + stretch * (batch + 1),
                    count,
                    history.organisations,
                    history.members_of_largest,
                    made,
                    timeout=_TIMEOUT_S,
                )
            made += count
            progress(f"{made:,} of {history.rows:,} rows")
        await conn.execute(_SQL["add_request_key"], timeout=_TIMEOUT_S)
        async with conn.transaction():
            await conn.execute(_SQL["mark_settling"])
            await conn.execute(_SQL["add_used"], timeout=_TIMEOUT_S)
            await conn.execute(_SQL["add_used_to_pools"], timeout=_TIMEOUT_S)
            await conn.execute(_SQL["note_entries_applied"], timeout=_TIMEOUT_S)
        await ensure_shards(stores, 1)
        await conn.execute(_SQL["begin_second_epoch"])
        await conn.execute(_SQL["tidy_pools"], timeout=_TIMEOUT_S)
        await conn.execute(_SQL["tidy"], timeout=_TIMEOUT_S)
    return time.monotonic() - started


async def history_size(pool: Any) -> dict[str, int]:
    """What there is now: rows, organisations, members, bytes."""
    return dict(await pool.fetchrow(_SQL["size"]))
