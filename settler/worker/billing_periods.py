"""Ends billing periods: what was canceled ends, what was upgraded for later is, and the rest begins
its next period.
"""

from __future__ import annotations

from datetime import date
from typing import Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool

_SQL: Final = load_queries("periods")


async def end_billing_periods(pool: Pool, today: date) -> int:
    """End every period that is over on `today`, a day in UTC; returns how many. One transaction:
    cut off, it has done nothing, and the next call does it all.
    """
    ended: int = await pool.fetchval(_SQL["end_billing_periods"], today)
    return ended
