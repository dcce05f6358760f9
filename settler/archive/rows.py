"""Says what a row of an archive is: its columns, their types, and the digest that Postgres and a
reader of the files agree on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

SCHEMA_VERSION: Final = 1
"""Grows when a column is added, taken away, or means something else."""

COLUMNS: Final = {
    "id": "int64",
    "org_id": "string",
    "user_id": "string",
    "service_type": "string",
    "service_name": "string",
    "credits_used": "int64",
    "request_id": "string",
    "request_metadata": "string",
    "created_at": "timestamp[us, tz=UTC]",
    "shard": "int32",
    "epoch": "int64",
    "seq": "int64",
    "late": "bool",
    "reserved": "int64",
}
"""Columns in order, as the queries of archive.sql answer them. Amounts are whole millicredits;
metadata is JSON as text. `request_id`, `shard`, `epoch` and `seq` may be null.
"""
NAMES: Final = tuple(COLUMNS)
_ID, _CREDITS = NAMES.index("id"), NAMES.index("credits_used")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NULL: Final = "\x1f"
_BETWEEN: Final = "\x1e"


def arrow_schema() -> Any:
    """COLUMNS as pyarrow has them."""
    import pyarrow as pa

    types = {"string": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "bool": pa.bool_()}
    moment = pa.timestamp("us", tz="UTC")
    nullable = {"request_id", "shard", "epoch", "seq"}
    return pa.schema(
        [
            pa.field(name, types.get(kind, moment), nullable=name in nullable)
            for name, kind in COLUMNS.items()
        ],
        metadata={"taximeter.schema_version": str(SCHEMA_VERSION)},
    )


@dataclass(slots=True)
class Tally:
    """What rows come to, in whatever order: how many, their millicredits, first and last id, and
    the sum of their digests.
    """

    rows: int = 0
    credits_used: int = 0
    digest: int = 0
    id_min: int | None = None
    id_max: int | None = None

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Count rows of COLUMNS."""
        for row in rows:
            self.rows += 1
            self.credits_used += row[_CREDITS]
            self.digest += row_digest(row)
            number = row[_ID]
            self.id_min = number if self.id_min is None else min(self.id_min, number)
            self.id_max = number if self.id_max is None else max(self.id_max, number)

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.credits_used:,} millicredits, digest {self.digest}"


def row_digest(row: Sequence[Any]) -> int:
    """The first eight bytes of SHA-256 of a row of COLUMNS, as a signed number; `tally` of
    archive.sql makes the same.
    """
    text = _BETWEEN.join(map(_text, row)).encode()
    return int.from_bytes(sha256(text).digest()[:8], "big", signed=True)


def _text(value: Any) -> str:
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, datetime):
        return str((value - _EPOCH) // _MICROSECOND)
    return str(value)
