"""Reads hours of lower prices, in the words of LiteLLM's `off_peak_pricing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

WHEN: Final = frozenset(("hours_utc", "windows", "weekday_timezone"))
"""The fields of a block that say when; the others are prices."""
_EVERY_DAY: Final = frozenset(range(1, 8))
_Hours = tuple[tuple[time, time], ...]


@dataclass(frozen=True, slots=True)
class OffPeak:
    """Windows of ISO weekdays and of hours in UTC. The weekday is that of `zone`."""

    windows: tuple[tuple[frozenset[int], _Hours], ...]
    zone: tzinfo

    def holds(self, at: datetime) -> bool:
        """Whether the lower prices hold at a moment."""
        now = at.astimezone(UTC).time()
        weekday = at.astimezone(self.zone).isoweekday()
        return any(
            weekday in weekdays and any(_is_within(now, *hour) for hour in hours)
            for weekdays, hours in self.windows
        )


def off_peak_of(block: Mapping[str, Any]) -> OffPeak:
    """Read the hours of a block: `hours_utc` of every day, and `windows` with hours and ISO
    weekdays, which are counted in `weekday_timezone` (UTC without one). Raises ValueError that
    names the field and what it must be.
    """
    name = block.get("weekday_timezone")
    try:
        zone: tzinfo = UTC if name is None else ZoneInfo(name)
    except (ValueError, TypeError, LookupError, OSError):
        raise ValueError("weekday_timezone must be a name such as Asia/Shanghai") from None
    windows = []
    if "hours_utc" in block:
        windows.append((_EVERY_DAY, _hours(block["hours_utc"])))
    listed = block.get("windows", [])
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise ValueError("windows must be a list of tables")
    for one in listed:
        days = one.get("weekdays", sorted(_EVERY_DAY))
        if not isinstance(days, list) or not _EVERY_DAY.issuperset(map(_whole, days)):
            raise ValueError("weekdays must be a list of numbers from 1 (Monday) to 7")
        windows.append((frozenset(map(_whole, days)), _hours(one.get("hours_utc"))))
    if not windows:
        raise ValueError("hours_utc or windows must say when the prices hold")
    return OffPeak(tuple(windows), zone)


def _whole(day: object) -> int:
    return day if type(day) is int else 0


def _hours(listed: object) -> _Hours:
    hours = [listed] if isinstance(listed, str) else listed
    try:
        if not isinstance(hours, list) or not hours:
            raise ValueError
        pairs = [one.split("-") for one in hours]
        return tuple((time.fromisoformat(start), time.fromisoformat(end)) for start, end in pairs)
    except (ValueError, AttributeError):
        raise ValueError("hours_utc must be hours such as 10:00-18:30, or a list of such") from None


def _is_within(now: time, start: time, end: time) -> bool:
    # One that ends where it begins, or at midnight, goes on to the end of the day.
    return start <= now < end if start < end else now >= start or now < end
