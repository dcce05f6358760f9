"""Writes the exports of whole days: each once, and again when what the books have of it has
changed. Every step can be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError

from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.books.installation import may_speak
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import unsettled_before
from taximeter.settler.books.stores import Connection
from taximeter.settler.exports.columns import Row, Terms
from taximeter.settler.exports.formats import Writer, make_writer
from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.exports.manifest import (
    REVISIONS_KEPT,
    DayManifest,
    ExportedKind,
    ExportFile,
    exported_days,
    file_name,
    read_manifest,
)
from taximeter.settler.exports.reading import (
    SQL,
    Sums,
    bounds,
    readable,
    rows_of_day,
    sums_of_days,
)

_ARCHIVE: Final = load_queries("archive")
GRACE: Final = timedelta(minutes=5)
"""How long after midnight a day is left alone: transactions of before midnight end within it. One
that ends still later makes the day be written again.
"""


class NotExported(Exception):
    """A day is not written; says why in one sentence."""


class NotYet(NotExported):
    """It is not written now; later it will be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which kinds are written, as which formats."""

    kinds: tuple[str, ...]
    formats: tuple[str, ...]
    terms: Terms


@dataclass(slots=True)
class Written:
    """What became of a day. `revision` is that which lies there now."""

    day: date
    revision: int
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that were written now, by kind; none where all was there."""


async def take_turn(conn: Connection) -> None:
    """Be the only one who writes exports, for this session. Raises NotYet, also for what may be a
    copy: it would write over the exports of the original.
    """
    if not await may_speak(conn):
        raise NotYet("this database may be a copy of another one: see `taximeter restored`")
    if not await conn.fetchval(SQL["alone"]):
        raise NotYet("another process writes exports from this database")


async def refuse_open_day(conn: Connection, redis: Any, prefix: str, day: date) -> None:
    """Raise NotYet while something of a day may still come: it is not over by the clock of
    Postgres, or events of it may wait to be settled. Raises asyncpg errors.
    """
    end = bounds(day, day)[1]
    now: datetime = await conn.fetchval(SQL["now"])
    if now < end + GRACE:
        raise NotYet(f"{day} is not over: it is exported {GRACE.seconds // 60} min after it")
    try:
        waiting = await unsettled_before(conn, redis, prefix, end)
    except (RedisError, OSError) as error:
        raise NotYet(
            f"{day}: whether events of it wait to be settled is not known: Redis does not answer"
            f" ({error})"
        ) from error
    if waiting:
        shards = ", ".join(map(str, waiting))
        raise NotYet(f"{day}: events of it may wait to be settled (shard {shards})")


async def due_days(
    conn: Connection, place: Place, wanted: Wanted, days: Iterable[date]
) -> list[date]:
    """Which of these days were not written, or not with all that is wanted, or have come to
    something else since, in whichever kind. Raises ArchiveUnread, asyncpg errors.
    """
    asked = sorted(days)
    if not asked:
        return []
    known = set(await asyncio.to_thread(exported_days, place))
    books = await sums_of_days(conn, tuple(KINDS), asked[0], asked[-1])

    def is_right(manifest: DayManifest) -> bool:
        return all(
            (one := manifest.kinds.get(kind)) is not None
            and set(wanted.formats) <= one.files.keys()
            for kind in wanted.kinds
        ) and all(
            one.sums == books[kind].get(manifest.day, Sums())
            for kind, one in manifest.kinds.items()
            if kind != "focus" or wanted.terms.credit_price is not None
        )

    due = []
    for day in asked:
        try:
            right = day in known and is_right(await asyncio.to_thread(read_manifest, place, day))
        except ArchiveUnread:
            raise
        except ArchiveError:
            right = False  # Whoever writes it says what is wrong.
        if not right:
            due.append(day)
    return due


async def watched_days(conn: Connection, place: Place, watch_days: int) -> list[date]:
    """Days that a settler looks after: of the last `watch_days`, those from the first one on that
    is there; yesterday alone where none is. Raises ArchiveError, asyncpg errors.
    """
    now: datetime = await conn.fetchval(SQL["now"])
    yesterday = now.astimezone(UTC).date() - timedelta(days=1)
    days = [yesterday - timedelta(days=back) for back in reversed(range(watch_days))]
    known = await asyncio.to_thread(exported_days, place)
    begun = min((day for day in known if day >= days[0]), default=yesterday)
    return [day for day in days if day >= begun]


async def write_day(
    conn: Connection,
    place: Place,
    wanted: Wanted,
    day: date,
    *,
    again: bool = False,
    tell: Callable[[int], object] | None = None,
) -> Written:
    """Write a day that is over. What its files hold is one snapshot of the books, and is compared
    with their sums before anything is written. Where the same facts are there already nothing is
    written, unless `again` is. A day that has other facts than before gets the next revision, also
    in kinds and formats that it has and nobody wants any more: none is left as it was. Durable on
    return; the manifest comes last, and without one naming it a file is no export.

    `conn` has taken its turn. `tell` is called with numbers of rows as they are read. At most a
    page and a group of rows are in memory; files are made in the folder of temporary files first.
    Raises NotExported, ArchiveError, MissingPackage, asyncpg errors, OSError.
    """
    before = await asyncio.to_thread(_read_before, place, day)
    with tempfile.TemporaryDirectory(prefix="taximeter-export-") as folder:
        spooled, ledger = await _spool(
            conn, Path(folder), wanted, day, before, tell or (lambda rows: None)
        )
        changed = [
            one
            for one in spooled
            if (again and one.kind in wanted.kinds) or not one.is_there(before)
        ]
        if not changed and before is not None:
            return Written(day, before.revision)
        if not await conn.fetchval(SQL["is_ours"]):
            raise NotYet("this process lost its turn to write exports")
        kinds = dict(before.kinds) if before is not None else {}
        for one in changed:
            for form, file in one.files.items():
                name = file_name(one.kind, form, day)
                await asyncio.to_thread(place.write_file, name, file.path)
            kinds[one.kind] = one.exported(day)
        made = DayManifest(
            day=day,
            revision=1 if before is None else before.revision + 1,
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
            kinds=kinds,
            ledger=ledger,
            earlier=() if before is None else (before.said(), *before.earlier)[:REVISIONS_KEPT],
        )
        await asyncio.to_thread(place.write, made.name, made.as_bytes())
    return Written(day, made.revision, {one.kind: one.sums.rows for one in changed})


def _read_before(place: Place, day: date) -> DayManifest | None:
    """What lies there of a day, if anything. Raises NotExported for a manifest that is damaged."""
    if day not in exported_days(place):
        return None
    try:
        return read_manifest(place, day)
    except ArchiveUnread:
        raise
    except ArchiveError as error:
        raise NotExported(
            f"{error}: move it away, and the day is written as its first revision"
        ) from error


@dataclass(slots=True)
class _File:
    path: Path
    digest: Any = field(default_factory=sha256)
    length: int = 0

    def append(self, content: bytes) -> None:
        if content:
            self.digest.update(content)
            self.length += len(content)
            with self.path.open("ab") as file:
                file.write(content)


@dataclass(slots=True)
class _Spooled:
    """The rows of a kind, in files of this machine."""

    kind: str
    files: dict[str, _File]
    writers: dict[str, Writer]
    facts: Any = field(default_factory=sha256)
    rows: int = 0
    millicredits: int = 0

    @property
    def sums(self) -> Sums:
        return Sums(self.rows, self.millicredits)

    def add(self, rows: Sequence[Row], terms: Terms) -> None:
        """Take rows. May wait for the disk."""
        kind = KINDS[self.kind]
        values = [kind.values(readable(self.kind, row), terms) for row in rows]
        self.rows += len(rows)
        self.millicredits += sum(map(kind.amount_of, rows))
        for form, writer in self.writers.items():
            self._take(form, writer.add(values))

    def end(self) -> None:
        """No more rows come."""
        for form, writer in self.writers.items():
            self._take(form, writer.end())

    def _take(self, form: str, content: bytes) -> None:
        if form == "csv":
            self.facts.update(content)
        if form in self.files:
            self.files[form].append(content)

    def is_there(self, manifest: DayManifest | None) -> bool:
        """Whether the manifest says that these very rows lie there, in all of these formats."""
        known = None if manifest is None else manifest.kinds.get(self.kind)
        return (
            known is not None
            and known.facts_sha256 == self.facts.hexdigest()
            and known.sums == self.sums
            and self.files.keys() <= known.files.keys()
        )

    def exported(self, day: date) -> ExportedKind:
        files = {
            form: ExportFile(file_name(self.kind, form, day), file.length, file.digest.hexdigest())
            for form, file in self.files.items()
        }
        return ExportedKind(self.rows, self.millicredits, self.facts.hexdigest(), files)


async def _spool(
    conn: Connection,
    folder: Path,
    wanted: Wanted,
    day: date,
    before: DayManifest | None,
    tell: Callable[[int], object],
) -> tuple[list[_Spooled], dict[str, Any]]:
    """Every kind, from one snapshot, compared with what the books have; and where they stood."""
    made = []
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        gone = await conn.fetchval(SQL["gone_month"], day, day)
        if gone is not None and "requests" in wanted.kinds:
            raise NotExported(
                f"{day}: the requests of {gone:%Y-%m} have left Postgres: bring them back with"
                f" `taximeter archive restore {gone:%Y-%m}`, or leave the kind requests out"
            )
        ledger = dict((await conn.fetch(_ARCHIVE["ledger"]))[0])
        ledger["watermarks"] = [dict(row) for row in await conn.fetch(_ARCHIVE["watermarks"])]
        had = {} if before is None else before.kinds
        kinds = [*wanted.kinds, *(kind for kind in had if kind not in wanted.kinds)]
        if gone is not None and "requests" in had:
            kinds.remove("requests")
        if wanted.terms.credit_price is None and "focus" in had:
            kinds.remove("focus")
        books = await sums_of_days(conn, kinds, day, day)
        for kind in kinds:
            formats = {*wanted.formats, *(had[kind].files if kind in had else ())}
            # CSV is made in any case: its digest is that of the facts.
            writers = {form: make_writer(KINDS[kind], form) for form in {*formats, "csv"}}
            files = {form: _File(folder / f"{kind}.{form}") for form in sorted(formats)}
            for file in files.values():
                file.path.touch()
            one = _Spooled(kind, files, writers)
            async for rows in rows_of_day(conn, kind, day):
                await asyncio.to_thread(one.add, rows, wanted.terms)
                tell(len(rows))
            await asyncio.to_thread(one.end)
            if one.sums != (expected := books[kind].get(day, Sums())):
                raise NotExported(
                    f"{day}: {kind} comes to {one.sums}, and the books say {expected}: run"
                    " `taximeter check`"
                )
            made.append(one)
    return made, ledger
