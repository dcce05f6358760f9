"""Tells of users when they were last charged, and what they used on their last days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from taximeter.api.billing.usage_reports import last_days
from taximeter.api.billing.views import AllocationView
from taximeter.api.sql import CREDITS
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection, Pool

DAYS: Final = 14


async def with_activity(
    pool: Pool | Connection, org_id: str, views: Sequence[AllocationView]
) -> list[AllocationView]:
    """The allocations of a page, with what is settled of their users lately: one question for all
    of them, whose cost is that of the page.
    """
    first, last = last_days(DAYS)
    users = list({view.user_id for view in views})
    rows = await pool.fetch(CREDITS["activity_of_users"], org_id, users, first, last)
    found = {row["user_id"]: row for row in rows}
    told = []
    for view in views:
        row = found[view.user_id]
        used = dict(zip(row["days"] or (), row["credits_used"] or (), strict=True))
        days = [credits_of(used.get(first + timedelta(days=n), 0)) for n in range(DAYS)]
        last_at = row["last_request_at"]
        told.append(view.model_copy(update={"last_request_at": last_at, "credits_by_day": days}))
    return told
