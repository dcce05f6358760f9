"""Writes down what no row of a table says: that the books lag or are wrong, that something ends
soon. What a row says is noted by triggers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool
from taximeter.settler.notices.catalogue import Books, Lag, NoticeData

_SQL: Final = load_queries("notices")
_ENDS_AT_ONCE: Final = 500
_PRUNED_AT_ONCE: Final = 50_000


async def note_ends(pool: Pool, now: datetime) -> int:
    """Note what ends within 7 days and within one, each once; returns how many. Raises asyncpg
    errors.
    """
    noted: int = await pool.fetchval(_SQL["note_expiring"], now, _ENDS_AT_ONCE)
    return noted


async def note_lags(pool: Pool, lags: Iterable[Lag], alarm_s: float) -> int:
    """Note the shards whose oldest unsettled event has become older than `alarm_s`, and those that
    are within half of it again; returns how many. Raises asyncpg errors.
    """
    noted = 0
    for lag in lags:
        is_stuck = lag.unsettled_age_s > alarm_s
        if is_stuck or lag.unsettled_age_s <= alarm_s / 2:
            noted += await _note(pool, f"settlement/{lag.shard}", is_stuck, "settlement", lag)
    return noted


async def note_books(pool: Pool, found: Books, *, confirmed: int) -> bool:
    """Note that books are wrong when some differences were found twice, and that they are right
    when there are none; returns whether that is new. Raises asyncpg errors.
    """
    if found.differences and not confirmed:
        return False
    return await _note(pool, "books", confirmed > 0, "books", found)


async def prune_notices(pool: Pool, kept_s: float) -> str:
    """Forget notices that are older; so many at a time that nobody waits. Raises asyncpg errors."""
    return await pool.execute(_SQL["prune_notices"], kept_s, _PRUNED_AT_ONCE)


_TYPES: Final = {
    "settlement": ("system.settlement_stuck", "system.settlement_resumed"),
    "books": ("system.books_wrong", "system.books_right"),
}


async def _note(pool: Pool, subject: str, is_wrong: bool, what: str, data: NoticeData) -> bool:
    said: Any = json.dumps(data.model_dump())
    new: bool = await pool.fetchval(_SQL["note_condition"], subject, is_wrong, *_TYPES[what], said)
    return new
