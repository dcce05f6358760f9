"""Writes the rows of a month as Parquet files, and a manifest when all of them are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from taximeter.settler.archive.manifest import FileEntry, Manifest, Part, digest_of
from taximeter.settler.archive.places import Place
from taximeter.settler.archive.rows import NAMES, Tally, arrow_schema
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Session

SQL: Final = load_queries("archive")
PAGE_ROWS: Final = 5_000
_METADATA: Final = NAMES.index("request_metadata")
_ROW_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of a group of rows, which a reader has in memory at a time, and of a file, which it
    has beside it, compressed. Bytes are those of metadata, and 200 for the rest of a row.
    """

    group_rows: int = 20_000
    group_bytes: int = 16 * 1024**2
    file_rows: int = 200_000
    file_bytes: int = 64 * 1024**2


SIZES: Final = Sizes()


@dataclass(slots=True)
class _Writer:
    """Turns rows into files. Everything here may wait for the place."""

    place: Place
    part: Part
    sizes: Sizes
    tally: Tally = field(default_factory=Tally)
    files: list[FileEntry] = field(default_factory=list)
    _group: list[Sequence[Any]] = field(default_factory=list)
    _group_bytes: int = 0
    _file: Any = None
    _sink: Any = None
    _of_file: Tally = field(default_factory=Tally)
    _file_bytes: int = 0
    _first: Sequence[Any] | None = None
    _last: Sequence[Any] | None = None

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Rows in order: by organisation, the newest first."""
        for row in rows:
            self._group.append(row)
            self._group_bytes += _ROW_BYTES + len(row[_METADATA])
            if (
                len(self._group) >= self.sizes.group_rows
                or self._group_bytes >= self.sizes.group_bytes
            ):
                self._end_group()

    def end(self) -> None:
        """Write what is left."""
        self._end_group()
        self._end_file()

    def _end_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._group:
            return
        schema = arrow_schema()
        if self._file is None:
            self._sink = pa.BufferOutputStream()
            self._file = pq.ParquetWriter(self._sink, schema, compression="zstd")
            self._first = self._group[0]
        columns = zip(*self._group, strict=True)
        table = pa.Table.from_arrays(
            [pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)],
            schema=schema,
        )
        self._file.write_table(table, row_group_size=len(self._group))
        self._of_file.add(self._group)
        self._last = self._group[-1]
        self._file_bytes += self._group_bytes
        self._group, self._group_bytes = [], 0
        if self._of_file.rows >= self.sizes.file_rows or self._file_bytes >= self.sizes.file_bytes:
            self._end_file()

    def _end_file(self) -> None:
        if self._file is None or self._first is None or self._last is None:
            return
        self._file.close()
        content = self._sink.getvalue().to_pybytes()
        name = f"{self.part.prefix}-{len(self.files) + 1:05d}.parquet"
        self.place.write(name, content)
        one, all_rows = self._of_file, self.tally
        self.files.append(
            FileEntry(
                name=name,
                rows=one.rows,
                credits_used=one.credits_used,
                bytes=len(content),
                sha256=digest_of(content),
                first=_key(self._first),
                last=_key(self._last),
            )
        )
        self.tally = Tally(
            all_rows.rows + one.rows,
            all_rows.credits_used + one.credits_used,
            all_rows.digest + one.digest,
            min(x for x in (all_rows.id_min, one.id_min) if x is not None),
            max(x for x in (all_rows.id_max, one.id_max) if x is not None),
        )
        self._file, self._sink, self._of_file, self._file_bytes = None, None, Tally(), 0


def _key(row: Sequence[Any]) -> tuple[str, str, int]:
    found = dict(zip(NAMES, row, strict=True))
    return found["org_id"], found["created_at"].isoformat(), found["id"]


async def write_part(
    conn: Session,
    place: Place,
    part: Part,
    until: datetime,
    sizes: Sizes = SIZES,
    tell: Callable[[int], object] = lambda rows: None,
) -> Manifest:
    """Write all rows of the month that Postgres has, from one snapshot; the manifest comes last.
    Durable on return. At most a group of rows and a file are in memory. `tell` is called with
    numbers of rows as they are written. Raises ArchiveError, asyncpg errors.
    """
    writer = _Writer(place, part, sizes)
    since = datetime.combine(part.month, datetime.min.time(), UTC)
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        ledger = dict((await conn.fetch(SQL["ledger"]))[0])
        ledger["watermarks"] = [dict(row) for row in await conn.fetch(SQL["watermarks"])]
        rows = await conn.cursor(SQL["rows"], since, until)
        while page := await rows.fetch(PAGE_ROWS):
            await asyncio.to_thread(writer.add, [tuple(row) for row in page])
            tell(len(page))
    await asyncio.to_thread(writer.end)
    made = Manifest(
        month=part.folder,
        part=part.part,
        rows=writer.tally.rows,
        credits_used=writer.tally.credits_used,
        digest=writer.tally.digest,
        id_min=writer.tally.id_min,
        id_max=writer.tally.id_max,
        files=tuple(writer.files),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ledger=ledger,
    )
    await asyncio.to_thread(place.write, part.manifest, made.as_bytes())
    return made
