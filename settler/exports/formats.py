"""Turns rows into the bytes of a CSV or Parquet file, piece by piece."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from taximeter.settler.exports.columns import SCHEMA_VERSION, Kind

GROUP_ROWS: Final = 20_000
GROUP_BYTES: Final = 16 * 1024**2
"""Bounds of a group of rows of Parquet, which is in memory as it is written and as it is read."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_ROW_BYTES: Final = 200

Values = tuple[Any, ...]


class MissingPackage(Exception):
    """A format needs a package that is not installed; says which extra has it."""


class Writer(Protocol):
    """What a file is made of. The bytes that `add` and `end` return, one after the other, are the
    file; without those of `end` it is not whole.
    """

    def add(self, rows: Sequence[Values]) -> bytes:
        """Take rows of the kind's columns; what is ready of the file, which may be nothing."""

    def end(self) -> bytes:
        """The rest of the file."""


def make_writer(kind: Kind, form: str) -> Writer:
    """A writer of `csv` or `parquet`. Raises MissingPackage."""
    return ParquetWriter(kind) if form == "parquet" else CsvWriter(kind)


def csv_cell(value: Any) -> str:
    """A value as CSV has it. Names are chosen by callers, and a spreadsheet runs what begins like a
    formula: such text begins with an apostrophe.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        precision = "microseconds" if value.microsecond else "seconds"
        text = value.astimezone(UTC).isoformat(timespec=precision)
        return text.removesuffix("+00:00") + "Z"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


class CsvWriter:
    """A head with the names of the columns, and a line for each row, which end with CR LF as RFC
    4180 has them.
    """

    def __init__(self, kind: Kind) -> None:
        self._text = io.StringIO(newline="")
        self._lines = csv.writer(self._text)
        self._lines.writerow(kind.names)

    def add(self, rows: Sequence[Values]) -> bytes:
        """These rows as text in UTF-8."""
        self._lines.writerows([csv_cell(value) for value in row] for row in rows)
        made = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return made

    def end(self) -> bytes:
        """The head, if there was no row."""
        return self.add(())


class ParquetWriter:
    """Groups of rows, compressed by zstd. A file without its end cannot be opened."""

    def __init__(self, kind: Kind) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingPackage(
                "Parquet needs the package pyarrow: pip install 'PATH[exports]'"
            ) from error
        self._pa = pa
        self._schema = arrow_schema(kind)
        self._sink = _Sink()
        self._file = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        self._group: list[Values] = []
        self._bytes = 0

    def add(self, rows: Sequence[Values]) -> bytes:
        """What is ready: whole groups of rows."""
        for row in rows:
            self._group.append(row)
            self._bytes += _ROW_BYTES + sum(len(one) for one in row if type(one) is str)
            if len(self._group) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._end_group()
        return self._sink.take()

    def end(self) -> bytes:
        """The last group, and where everything is."""
        self._end_group()
        self._file.close()
        return self._sink.take()

    def _end_group(self) -> None:
        if not self._group:
            return
        columns = zip(*self._group, strict=True)
        table = self._pa.Table.from_arrays(
            [
                self._pa.array(column, one.type)
                for column, one in zip(columns, self._schema, strict=True)
            ],
            schema=self._schema,
        )
        self._file.write_table(table, row_group_size=len(self._group))
        self._group, self._bytes = [], 0


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._parts.append(bytes(content))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """What was written since the last time."""
        made = b"".join(self._parts)
        self._parts.clear()
        return made


def arrow_schema(kind: Kind) -> Any:
    """The columns of a kind as pyarrow has them."""
    import pyarrow as pa

    types: dict[str, Callable[[], Any]] = {
        "text": pa.string,
        "json": pa.string,
        "whole": pa.int64,
        "credits": lambda: pa.decimal128(21, 3),
        "money": lambda: pa.decimal128(38, 12),
        "day": pa.date32,
        "moment": lambda: pa.timestamp("us", tz="UTC"),
        "yes_no": pa.bool_,
    }
    return pa.schema(
        [
            pa.field(column.name, types[column.type](), nullable=column.nullable)
            for column in kind.columns
        ],
        metadata={"taximeter.export": kind.name, "taximeter.schema_version": str(SCHEMA_VERSION)},
    )
