"""Reads single charges, those of archived months as well, and says what each was for."""

from __future__ import annotations

import asyncio
import csv
import heapq
import io
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel

from taximeter.api.sql import REQUESTS
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.archive.manifest import Part
from taximeter.settler.archive.months import bounds, last_month
from taximeter.settler.archive.places import ArchiveError, open_place
from taximeter.settler.archive.reading import Archive, Wanted
from taximeter.settler.books.stores import Connection, Pool

T = TypeVar("T")


class Charge(Protocol):
    """A charge, with what the query `list_requests` answers by name."""

    def __getitem__(self, name: str, /) -> Any:
        """Amounts are millicredits, `metadata` is JSON as text."""


COLUMNS: Final = (
    "created_at",
    "user_id",
    "service_type",
    "service_name",
    "credits_used",
    "request_id",
    "reserved_credits",
    "late",
)
PRICE_COLUMNS: Final = ("of", "source", "version", "dated", "age_days")
READ_S: Final = 20.0
LOOKED_AT_MAX: Final = 10_000
"""Charges that one page looks at, where what is asked for is in no index."""


class Reader(Protocol):
    """Does work on a connection, within one snapshot of the books."""

    async def __call__(self, work: Callable[[Connection], Awaitable[T]], /) -> T:
        """What the work answers."""


def reader_of(pool: Pool) -> Reader:
    """One that reads from this pool."""

    async def read(work: Callable[[Connection], Awaitable[T]], /) -> T:
        async with (
            pool.acquire() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await work(conn)

    return read


class Chosen(NamedTuple):
    """Which charges: the parameters of `list_requests`, but for its limit. A page begins behind the
    row of `last_at` and `last_id`. `least` and `most` are millicredits.
    """

    org_id: str
    first: datetime
    before: datetime
    user_id: str | None = None
    service_type: str | None = None
    service_name: str | None = None
    request_id: str | None = None
    last_at: datetime | None = None
    last_id: int | None = None
    late: bool | None = None
    least: int | None = None
    most: int | None = None

    @property
    def is_in_no_index(self) -> bool:
        """Whether charges have to be looked at one by one."""
        asked = (self.service_type, self.service_name, self.request_id, self.late)
        return (*asked, self.least, self.most) != (None,) * 6

    def has(self, charge: Charge) -> bool:
        """Whether it is late as asked for, and its amount between the two."""
        amount = charge["credits_used"]
        return (
            self.late in (None, charge["late"])
            and (self.least is None or amount >= self.least)
            and (self.most is None or amount <= self.most)
        )


class Charges:
    """Charges of organisations, from Postgres and from the archive at `archive_url`, if there is
    one. One reader at a time has the archive, since a file of it is in memory meanwhile; `read_s`
    bounds how long.
    """

    def __init__(self, archive_url: str | None, *, read_s: float | None = None) -> None:
        self._archive = None if archive_url is None else Archive(open_place(archive_url))
        self._read_s = READ_S if read_s is None else read_s
        self._alone = asyncio.Lock()

    async def page(self, read: Reader, chosen: Chosen, limit: int) -> Sequence[Charge]:
        """At most `limit` charges, the newest first. Raises asyncpg errors, and ArchiveError where
        a month that is asked for is archived and its files are away, altered or not known here.
        """

        async def look(conn: Connection) -> tuple[Sequence[Charge], list[Part], Chosen]:
            # One snapshot: a month is in one of the two.
            rows = await conn.fetch(REQUESTS["list_requests"], *chosen, limit)
            return await _parts_of(conn, chosen, rows, limit)

        rows, parts, rest = await read(look)
        return await self._with_archived(parts, rest, rows, limit) if parts else rows

    async def bounded_page(
        self, read: Reader, chosen: Chosen, limit: int
    ) -> tuple[Sequence[Charge], Charge | None]:
        """The same, in bounded time: where what is asked for is in no index, at most LOOKED_AT_MAX
        charges are looked at. Where those were not all, the last of them comes with what was found:
        the next page begins behind it.
        """

        async def look(
            conn: Connection,
        ) -> tuple[Sequence[Charge], Charge | None, list[Part], Chosen]:
            among = chosen
            if chosen.request_id is not None:
                key = (chosen.org_id, chosen.request_id)
                known = (await conn.fetch(REQUESTS["moments_of_request"], *key))[0]
                if known["first"] is not None:
                    after = known["last"] + timedelta(microseconds=1)
                    among = chosen._replace(
                        first=max(chosen.first, known["first"]), before=min(chosen.before, after)
                    )
            found = await conn.fetch(REQUESTS["list_requests_among"], *among, limit, LOOKED_AT_MAX)
            rows: Sequence[Charge] = [row for row in found if not row["is_end"]]
            if len(rows) < limit and len(rows) < len(found):
                return rows, found[-1], [], among
            rows, parts, rest = await _parts_of(conn, among, rows, limit)
            return rows, None, parts, rest

        if not chosen.is_in_no_index:
            return await self.page(read, chosen, limit), None
        rows, end, parts, rest = await read(look)
        return (await self._with_archived(parts, rest, rows, limit) if parts else rows), end

    async def _with_archived(
        self, parts: list[Part], chosen: Chosen, rows: Sequence[Charge], limit: int
    ) -> list[Charge]:
        archive = self._archive
        if archive is None:
            raise ArchiveError(
                f"{parts[0].folder} is archived, and TAXIMETER_ARCHIVE_URL is not set here"
            )
        read_s = self._read_s

        def read() -> list[Charge]:
            wanted = _wanted(chosen, time.monotonic() + read_s)
            archived: Iterable[Charge] = (
                {**row, "metadata": row["request_metadata"]}
                for row in archive.rows(parts, wanted)
                if chosen.has(row)
            )
            return list(islice(heapq.merge(rows, archived, key=_newest, reverse=True), limit))

        async with self._alone:
            return await asyncio.to_thread(read)


async def _parts_of(
    conn: Connection, chosen: Chosen, rows: Sequence[Charge], limit: int
) -> tuple[Sequence[Charge], list[Part], Chosen]:
    """The rows, and where older ones of the page may lie in the archive."""
    rest = chosen
    if len(rows) == limit:
        # Older ones are on other pages.
        rest = chosen._replace(first=max(chosen.first, rows[-1]["created_at"]))
    if rest.first >= bounds(last_month(datetime.now(UTC).date()))[0]:
        return rows, [], rest  # These months are never archived.
    found = await conn.fetch(REQUESTS["archived_parts"], rest.first, rest.before)
    return rows, [Part(**dict(row)) for row in found], rest


def _wanted(chosen: Chosen, give_up_at: float) -> Wanted:
    after = None
    if chosen.last_at is not None and chosen.last_id is not None:
        after = chosen.last_at, chosen.last_id
    return Wanted(
        org_id=chosen.org_id,
        first=chosen.first,
        before=chosen.before,
        user_id=chosen.user_id,
        service_type=chosen.service_type,
        service_name=chosen.service_name,
        request_id=chosen.request_id,
        after=after,
        give_up_at=give_up_at,
    )


def _newest(row: Charge) -> tuple[datetime, int]:
    return row["created_at"], row["id"]


class PriceView(BaseModel):
    """The price that a charge was made by. `of`: the model that was meant, as host/region/name.
    `source` and `version`: which list. `dated`: the day of which its prices were, and `age_days`
    how old they were then; null where nobody says.
    """

    of: str | None
    source: str
    version: str
    dated: date | None
    age_days: int | None


class SettledRequest(BaseModel):
    """One charge. `reserved_credits` is the estimate that was held for it; `late` says that its
    hold had ended before it came; `price` is null for an amount that was not priced here.
    """

    id: str
    created_at: datetime
    user_id: str
    service_type: str
    service_name: str
    credits_used: float
    request_id: str | None
    reserved_credits: float
    late: bool
    price: PriceView | None = None
    metadata: dict[str, Any]


def view_of(row: Charge) -> SettledRequest:
    """A charge in credits, with the price that it was made by."""
    metadata = json.loads(row["metadata"])
    metadata = metadata if isinstance(metadata, dict) else {"value": metadata}
    return SettledRequest(
        id=str(row["id"]),
        created_at=row["created_at"],
        user_id=row["user_id"],
        service_type=row["service_type"],
        service_name=row["service_name"],
        credits_used=credits_of(row["credits_used"]),
        request_id=row["request_id"],
        reserved_credits=credits_of(row["reserved"]),
        late=row["late"],
        price=_price(metadata, row["created_at"]),
        metadata=metadata,
    )


def _price(metadata: Mapping[str, Any], charged_at: datetime) -> PriceView | None:
    """What a charge says of its price; callers of the sidecar may have written anything there."""
    of, source, version = (metadata.get(f"price_{name}") for name in PRICE_COLUMNS[:3])
    if not isinstance(source, str) or not isinstance(version, str):
        return None
    try:
        dated = date.fromisoformat(str(metadata.get("price_dated")))
    except ValueError:
        dated = None
    return PriceView(
        of=of if isinstance(of, str) else None,
        source=source,
        version=version,
        dated=dated,
        age_days=None if dated is None else (charged_at.astimezone(UTC).date() - dated).days,
    )


def csv_of(rows: Iterable[Charge], *, head: bool = True) -> str:
    """A table for a spreadsheet. Text that it would take for a formula begins with an
    apostrophe.
    """
    written = io.StringIO()
    table = csv.writer(written)
    if head:
        table.writerow([*COLUMNS, *(f"price_{name}" for name in PRICE_COLUMNS)])
    for row in rows:
        one = view_of(row).model_dump(mode="json")
        price = one["price"] or {}
        cells = [one[name] for name in COLUMNS] + [price.get(name) for name in PRICE_COLUMNS]
        table.writerow(map(_cell, cells))
    return written.getvalue()


def _cell(value: object) -> object:
    """Names are chosen by callers, and a spreadsheet runs what begins with one of these."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
