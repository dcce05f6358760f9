"""LiteLLM's `off_peak_pricing`: whether a moment lies in one of its windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, tzinfo
from typing import Any
from zoneinfo import ZoneInfo


def is_off_peak(block: Mapping[str, Any], at: datetime) -> bool:
    """Whether the lower prices of a block hold at a moment. `hours_utc` are windows of every day;
    `windows` have hours and ISO weekdays, counted in `weekday_timezone` (UTC without one). Raises
    ValueError, KeyError for a block that cannot be read.
    """
    at = at.astimezone(UTC)
    if _is_within(block.get("hours_utc", ()), at):
        return True
    zone: tzinfo = ZoneInfo(block["weekday_timezone"]) if "weekday_timezone" in block else UTC
    weekday = at.astimezone(zone).isoweekday()
    return any(
        weekday in one.get("weekdays", range(1, 8)) and _is_within(one.get("hours_utc", ()), at)
        for one in block.get("windows", ())
    )


def _is_within(hours: str | Iterable[str], at: datetime) -> bool:
    now = at.time()
    for window in (hours,) if isinstance(hours, str) else hours:
        start, end = map(time.fromisoformat, window.split("-"))
        # One that ends where it begins, or at midnight, goes on to the end of the day.
        if start <= now < end if start < end else now >= start or now < end:
            return True
    return False
