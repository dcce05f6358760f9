"""Reads usage from the rollups: as fast for a year as for a day, and for a thousand members as for
one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple

from asyncpg import Record

from taximeter.api.sql import USAGE
from taximeter.api.web.errors import ApiError
from taximeter.settler.books.stores import Connection

DAYS_DEFAULT: Final = 30
RANGE_DAYS_MAX: Final = 366
USERS_MAX: Final = 20_000
"""With more users, each counted once a month, a report adds up nobody's usage unasked."""
OWN_CHARGES_MAX: Final = 10_000
"""Charges of one user that are added up by label: no rollup has both, so they are read."""
LEFT_OUT: Final = f"Not added up, since more than {USERS_MAX:,} users (each counted once a month)"

Period = Literal["day", "week", "month"]
Label = Literal["key", "tag"]
"""What a charge may say of itself, and is added up by: the API key that made it, and a word of its
caller's.
"""
LABELS: Final[tuple[Label, ...]] = ("key", "tag")


def last_days(days: int = DAYS_DEFAULT) -> tuple[date, date]:
    """The last `days` days in UTC, today included: first and last."""
    today = datetime.now(UTC).date()
    return today - timedelta(days=days - 1), today


def day_range(start: date | None, end: date | None) -> tuple[date, date]:
    """First and last day (UTC) of a report; by default the last 30 days, today included. Raises
    ApiError 400.
    """
    last = end or datetime.now(UTC).date()
    try:
        first = start or last - timedelta(days=DAYS_DEFAULT - 1)
    except OverflowError:
        raise ApiError(400, "end_date is too early", details={"field": "end_date"}) from None
    if first > last:
        raise ApiError(
            400, "start_date must not be after end_date", details={"field": "start_date"}
        )
    if (last - first).days >= RANGE_DAYS_MAX:
        raise ApiError(
            400,
            f"a report covers at most {RANGE_DAYS_MAX} days",
            details={"field": "start_date"},
        )
    return first, last


async def names_of_keys(conn: Connection, org_id: str, key_ids: Iterable[str]) -> dict[str, str]:
    """What the organisation calls its API keys, also those that have ended."""
    rows = await conn.fetch(USAGE["names_of_keys"], org_id, list(key_ids))
    return {row["key_id"]: row["name"] for row in rows}


class Labelled(NamedTuple):
    """What a user used in a period with one key or tag; `name` is None for what says none."""

    period: date
    name: str | None
    requests: int
    credits_used: int


def by_name(rows: Iterable[Labelled]) -> list[Labelled]:
    """All periods together, the largest first; the period is the first of each."""
    found: dict[str | None, Labelled] = {}
    for row in rows:
        known = found.get(row.name, row._replace(requests=0, credits_used=0))
        found[row.name] = known._replace(
            requests=known.requests + row.requests,
            credits_used=known.credits_used + row.credits_used,
        )
    return sorted(found.values(), key=lambda row: (-row.credits_used, row.name or ""))


def _sums(rows: Sequence[Record]) -> dict[date, tuple[int, int]]:
    """Requests and millicredits of each period."""
    requests: defaultdict[date, int] = defaultdict(int)
    used: defaultdict[date, int] = defaultdict(int)
    for row in rows:
        requests[row["period"]] += row["requests"]
        used[row["period"]] += row["credits_used"]
    return {period: (requests[period], used[period]) for period in requests}


@dataclass(frozen=True, slots=True)
class Scope:
    """Usage of an organisation, or of one of its users, from first to last day (both included).

    Every question is answered with rows of name (or period), requests and credits_used in
    millicredits, the largest first.
    """

    org_id: str
    first: date
    last: date
    user_id: str | None = None
    service_type: str | None = None

    async def by_service(self, conn: Connection) -> list[Record]:
        """By kind of service."""
        return await self._ask(conn, "usage_by_service")

    async def by_model(self, conn: Connection, limit: int) -> list[Record]:
        """By model, at most `limit`."""
        return await self._ask(conn, "usage_by_model", limit)

    async def by_period(self, conn: Connection, period: Period) -> list[Record]:
        """By day, week or month, the earliest first; those without usage are left out."""
        return await self._ask(conn, "usage_by_period", period)

    async def has_few_users(self, conn: Connection) -> bool:
        """Whether a report may add up each user's usage without being asked to."""
        most = USERS_MAX + 1
        rows = await conn.fetchval(
            USAGE["users_with_usage"], self.org_id, self.first, self.last, most
        )
        return bool(rows < most)

    async def by_user(self, conn: Connection, limit: int) -> list[Record]:
        """By user, at most `limit`. Not for a scope of one user."""
        scope = (self.org_id, self.first, self.last, limit)
        if self.service_type is None:
            return await conn.fetch(USAGE["usage_by_user"], *scope)
        return await conn.fetch(USAGE["usage_by_user_of_service"], *scope, self.service_type)

    async def by_label(self, conn: Connection, label: Label, limit: int) -> list[Record]:
        """By key or tag, at most `limit`; what says none is left out. Of an organisation as a whole
        alone: see `own_by_label` and `no_parts`.
        """
        return await conn.fetch(
            USAGE["usage_by_label"], self.org_id, self.first, self.last, label, limit
        )

    async def own_by_label(
        self,
        conn: Connection,
        period: Period,
        label: Label,
        field: str,
        *,
        own_keys_only: bool,
    ) -> list[Labelled]:
        """By period and key or tag, of a scope of one user, with what says none; it adds up to
        `by_period`. With `own_keys_only` the keys of others, and of all, count as none. Raises
        ApiError 400 where charges lie in the archive, or are more than are read for an answer.
        """
        whole = await self.by_period(conn, period)
        rows = await conn.fetch(
            USAGE["own_usage_by_label"],
            self.org_id,
            self.first,
            self.last,
            period,
            self.user_id,
            label,
            label == "key" and own_keys_only,
            OWN_CHARGES_MAX,
        )
        if _sums(rows) != _sums(whole):
            raise ApiError(
                400,
                f"{field}: usage of one user by {label} is added up for at most "
                f"{OWN_CHARGES_MAX:,} requests, none of them in an archived month: choose a "
                "shorter or a later range",
                details={"field": field},
            )
        return [
            Labelled(row["period"], row["name"], row["requests"], row["credits_used"])
            for row in rows
        ]

    def no_parts(self, label: Label, field: str) -> None:
        """Raises ApiError 400 where the usage of one service is to be divided by label."""
        if self.service_type is not None:
            raise ApiError(
                400,
                f"{field}: usage by {label} is added up for all services together, and not for one",
                details={"field": field},
            )

    @property
    def _organization(self) -> tuple[str, date, date, str | None]:
        return self.org_id, self.first, self.last, self.service_type

    async def _ask(self, conn: Connection, query: str, *more: object) -> list[Record]:
        if self.user_id is None:
            return await conn.fetch(USAGE[query], *self._organization, *more)
        return await conn.fetch(USAGE[f"own_{query}"], *self._organization, self.user_id, *more)
