"""Reads archived rows again: those of one organisation, the newest first, or all of a part."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from taximeter.settler.archive.manifest import (
    FileEntry,
    Manifest,
    Part,
    moment,
    read_file,
    read_manifest,
)
from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.archive.rows import NAMES, Tally

_ROWS_AT_ONCE: Final = 500
_MANIFESTS_KEPT: Final = 32

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows of an organisation: from `first` on and before `before`, of a user, a service, a
    request; behind the row of `after` (created_at, id). Moves between accounts are left out. What
    takes beyond `give_up_at`, by time.monotonic, is given up.
    """

    org_id: str
    first: datetime
    before: datetime
    user_id: str | None = None
    service_type: str | None = None
    service_name: str | None = None
    request_id: str | None = None
    after: tuple[datetime, int] | None = None
    give_up_at: float | None = None


@dataclass(slots=True)
class Archive:
    """The archive at a place. Each file is proved by its digest before anything of it is believed;
    the last one is kept, since who turns pages comes back to it. For one thread at a time.
    """

    place: Place
    _manifests: dict[Part, Manifest] = field(default_factory=dict)
    _last: tuple[FileEntry, bytes] | None = None

    def rows(self, parts: Sequence[Part], wanted: Wanted) -> Iterator[Row]:
        """Rows of COLUMNS by name, the newest first. In memory are a file, and a group of its rows,
        for each part of a month. Raises ArchiveError.
        """
        months = sorted({part.month for part in parts}, reverse=True)
        for month in months:
            of_month = [self._of_part(one, wanted) for one in parts if one.month == month]
            yield from heapq.merge(*of_month, key=_newest_first, reverse=True)

    def manifest(self, part: Part) -> Manifest:
        """What a part holds. Raises ArchiveError."""
        found = self._manifests.get(part)
        if found is None:
            found = read_manifest(self.place, part)
            if len(self._manifests) >= _MANIFESTS_KEPT:
                self._manifests.clear()
            self._manifests[part] = found
        return found

    def _of_part(self, part: Part, wanted: Wanted) -> Iterator[Row]:
        newest = wanted.after[0] if wanted.after is not None else wanted.before
        for entry in self.manifest(part).files:
            (org_first, _, _), (org_last, last_at, _) = entry.first, entry.last
            if not org_first <= wanted.org_id <= org_last:
                continue
            if org_first == wanted.org_id and moment(entry.first[1]) < wanted.first:
                return  # All that follow are older.
            if org_last == wanted.org_id and moment(last_at) > newest:
                continue
            yield from self._of_file(entry, wanted)

    def _of_file(self, entry: FileEntry, wanted: Wanted) -> Iterator[Row]:
        for table in tables_of(entry, self._content(entry), _may_hold(wanted)):
            chosen = table.filter(_choose(table, wanted))
            for start in range(0, chosen.num_rows, _ROWS_AT_ONCE):
                yield from chosen.slice(start, _ROWS_AT_ONCE).to_pylist()

    def _content(self, entry: FileEntry) -> bytes:
        if self._last is None or self._last[0] != entry:
            self._last = None
            self._last = entry, read_file(self.place, entry)
        return self._last[1]


def _newest_first(row: Row) -> tuple[datetime, int]:
    return row["created_at"], row["id"]


def tables_of(
    entry: FileEntry, content: bytes, may_hold: Callable[[Mapping[str, Any]], bool] | None = None
) -> Iterator[Any]:
    """The groups of rows of a file, as Arrow tables. `may_hold` is asked with the (least, greatest)
    of columns of a group, where the file says them. Raises ArchiveUnread: the content was proved by
    its digest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            for place in range(file.num_row_groups):
                group = file.metadata.row_group(place)
                known = {
                    (column := group.column(nth)).path_in_schema: (
                        column.statistics.min,
                        column.statistics.max,
                    )
                    for nth in range(group.num_columns)
                    if group.column(nth).statistics is not None
                    and group.column(nth).statistics.has_min_max
                }
                if may_hold is None or may_hold(known):
                    yield file.read_row_group(place)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveUnread(f"{entry.name} cannot be read: {error}") from error


def _may_hold(wanted: Wanted) -> Callable[[Mapping[str, Any]], bool]:
    newest = wanted.before if wanted.after is None else wanted.after[0]

    def look(known: Mapping[str, Any]) -> bool:
        if wanted.give_up_at is not None and time.monotonic() > wanted.give_up_at:
            raise ArchiveUnread("looking through the archive takes too long: ask for fewer days")
        for name, least, greatest in (
            ("org_id", wanted.org_id, wanted.org_id),
            ("created_at", wanted.first, newest),
        ):
            low, high = known.get(name, (least, greatest))
            if high < least or low > greatest:
                return False
        return True

    return look


def _choose(table: Any, wanted: Wanted) -> Any:
    """Which rows of a table, as a mask."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at, number = table["created_at"], table["id"]
    moments = pa.timestamp("us", tz="UTC")
    mask = pc.and_(
        pc.greater_equal(at, pa.scalar(wanted.first, moments)),
        pc.less(at, pa.scalar(wanted.before, moments)),
    )
    mask = pc.and_(mask, pc.not_equal(table["service_type"], "credit_transfer"))
    for name in ("org_id", "user_id", "service_type", "service_name", "request_id"):
        value = getattr(wanted, name)
        if value is not None:
            mask = pc.and_(mask, pc.fill_null(pc.equal(table[name], value), False))
    if wanted.after is not None:
        last_at, last_id = pa.scalar(wanted.after[0], moments), wanted.after[1]
        same = pc.and_(pc.equal(at, last_at), pc.less(number, last_id))
        mask = pc.and_(mask, pc.or_(pc.less(at, last_at), same))
    return mask


def rows_of_file(place: Place, entry: FileEntry) -> Iterator[list[tuple[Any, ...]]]:
    """All rows of a file as tuples of COLUMNS, group by group; the file is proved by its digest,
    its rows and their sum. Raises ArchiveError.
    """
    counted = Tally()
    for table in tables_of(entry, read_file(place, entry)):
        if tuple(table.column_names) != NAMES:
            raise ArchiveError(f"{entry.name} has other columns than its schema version")
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        counted.add(rows)
        yield rows
    if (counted.rows, counted.credits_used) != (entry.rows, entry.credits_used):
        raise ArchiveError(
            f"{entry.name} holds {counted.rows:,} rows and {counted.credits_used:,} millicredits,"
            f" its manifest says {entry.rows:,} and {entry.credits_used:,}"
        )


def prove_part(
    place: Place,
    part: Part,
    manifest: Manifest,
    tell: Callable[[int], object] = lambda rows: None,
) -> dict[str, tuple[int, int]]:
    """Read every file of a part again; (requests, millicredits) by organisation. Raises
    ArchiveError when a file is missing or altered, or the rows are not those of the manifest.
    `tell` is called with numbers of rows as they are read.
    """
    counted, by_org = Tally(), dict[str, tuple[int, int]]()
    org, credits = NAMES.index("org_id"), NAMES.index("credits_used")
    for entry in manifest.files:
        for rows in rows_of_file(place, entry):
            counted.add(rows)
            for row in rows:
                requests, used = by_org.get(row[org], (0, 0))
                by_org[row[org]] = requests + 1, used + row[credits]
            tell(len(rows))
    if counted != manifest.tally:
        raise ArchiveError(f"{part.manifest} says {manifest.tally}, and its files hold {counted}")
    return by_org
