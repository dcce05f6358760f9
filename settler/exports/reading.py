"""Reads what is exported: a day of all organisations through a cursor, or an organisation page by
page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Protocol, TypeVar

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection
from taximeter.settler.exports.columns import Row, metadata_of
from taximeter.settler.exports.kinds import KINDS

SQL: Final = load_queries("exports")
PAGE_ROWS: Final = 2_000
_BY_DAY: Final = frozenset({"usage", "focus"})
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "usage": ("day", "user_id", "service_type", "service_name"),
    "ledger": ("user_id", "entry_seq"),
    "audit": ("at", "id"),
    "focus": ("day", "line", "user_id", "service_type", "service_name"),
}
"""What a page is continued by."""

T = TypeVar("T")


class Reader(Protocol):
    """Does work on a connection, within one snapshot of the books."""

    async def __call__(self, work: Callable[[Connection], Awaitable[T]], /) -> T:
        """What the work answers."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What rows come to."""

    rows: int = 0
    millicredits: int = 0

    def __str__(self) -> str:
        return f"{self.rows:,} rows and {self.millicredits:,} millicredits"


def bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """The first moment of a day, and the first one after another day, in UTC. Raises OverflowError
    for the last day of all.
    """
    start, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
    return start, end


def readable(kind: str, row: Any) -> Row:
    """A row as the columns of its kind read it; of a request, with what its caller has said."""
    return {**row, "said": metadata_of(row)} if kind == "requests" else row


async def rows_of_day(conn: Connection, kind: str, day: date) -> AsyncIterator[Sequence[Any]]:
    """All rows of a day in the order of the file, some at a time, through a cursor: within the
    caller's transaction. Not `readable` yet. Raises asyncpg errors.
    """
    arguments: tuple[object, ...] = bounds(day, day)
    if kind == "usage":
        arguments = (day,)
    elif kind == "focus":
        arguments = (day, *arguments)
    cursor = await conn.cursor(SQL[f"{kind}_of_day"], *arguments)
    while page := await cursor.fetch(PAGE_ROWS):
        yield page


async def pages_of_org(
    read: Reader, kind: str, org_id: str, first: date, last: date
) -> AsyncIterator[Sequence[Row]]:
    """All rows of an organisation between two days (both included), some at a time: of every kind
    but `requests`, whose rows may lie in an archive. No connection is kept between two pages, and
    what was there when the first one was read is answered once. Raises asyncpg errors.
    """
    scope: tuple[object, ...] = (first, last) if kind in _BY_DAY else bounds(first, last)
    names = _KEYS[kind]
    key: tuple[object, ...] = (None,) * len(names)
    query = SQL[f"{kind}_of_org"]
    while True:
        asked = (org_id, *scope, *key, PAGE_ROWS)

        async def page(conn: Connection, asked: tuple[object, ...] = asked) -> list[Any]:
            return await conn.fetch(query, *asked)

        rows = await read(page)
        if rows:
            yield rows
        if len(rows) < PAGE_ROWS:
            return
        key = tuple(rows[-1][name] for name in names)


async def organizations(read: Reader) -> AsyncIterator[str]:
    """All organisations, also deleted ones. Raises asyncpg errors."""
    last = ""
    while True:
        after = last

        async def page(conn: Connection, after: str = after) -> list[Any]:
            return await conn.fetch(SQL["organizations_after"], after, PAGE_ROWS)

        found = await read(page)
        for row in found:
            yield row["id"]
        if len(found) < PAGE_ROWS:
            return
        last = found[-1]["id"]


async def sums_of_days(
    conn: Connection, kinds: Sequence[str], first: date, last: date
) -> dict[str, dict[date, Sums]]:
    """What the books have of each kind and day; days without anything are left out. Usage and
    requests are what the rollups say, so months whose rows have left Postgres count as well. Raises
    asyncpg errors.
    """
    found: dict[str, dict[date, Sums]] = {kind: {} for kind in KINDS}
    moments = bounds(first, last)
    if {"usage", "requests", "focus"} & set(kinds):
        for row in await conn.fetch(SQL["sums_of_usage"], first, last):
            found["usage"][row["day"]] = Sums(row["rows"], row["millicredits"])
            found["focus"][row["day"]] = Sums(row["rows"], row["millicredits"])
            if row["requests"]:
                found["requests"][row["day"]] = Sums(row["requests"], row["of_requests"])
    if "focus" in kinds:
        for row in await conn.fetch(SQL["purchases"], *moments):
            known = found["focus"].get(row["day"], Sums())
            found["focus"][row["day"]] = Sums(known.rows + row["rows"], known.millicredits)
    if "ledger" in kinds:
        for row in await conn.fetch(SQL["sums_of_ledger"], *moments):
            found["ledger"][row["day"]] = Sums(row["rows"], row["millicredits"])
    if "audit" in kinds:
        for row in await conn.fetch(SQL["sums_of_audit"], *moments):
            found["audit"][row["day"]] = Sums(row["rows"])
    return {kind: found[kind] for kind in kinds}
