"""Says which part of a list is asked for."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Query

from taximeter.api.web.errors import ApiError

COUNTED_MAX: Final = 10_000
"""A list counts no further: with a million rows the number would cost more than the page."""
TOTAL: Final = f"How many there are in all; null for more than {COUNTED_MAX:,}"
NEXT: Final = "Hand it over as `cursor` for the next page; null on the last one"

LimitParam = Annotated[int, Query(ge=1, le=100)]
OffsetParam = Annotated[int, Query(ge=0, le=10_000_000)]
CursorParam = Annotated[
    str | None,
    Query(
        max_length=4_096,
        description="`next` of the page before. Page 10,000 costs what page 1 does, where an "
        "`offset` costs more the further it goes; it is counted from there.",
    ),
]


def total_of(counted: int) -> int | None:
    """The number of rows, as a list says it: `counted` counts one more than COUNTED_MAX at most."""
    return counted if counted <= COUNTED_MAX else None


def cursor_of(*place: object) -> str:
    """The cursor of the page after a row with this place in the order."""
    parts = [part if isinstance(part, bool) else str(part) for part in place]
    return urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...]:
    """The place that a cursor says, of parts of these kinds; as many times None for no cursor.
    Raises ApiError 400 for what no page has answered.
    """
    if cursor is None:
        return (None,) * len(kinds)
    try:
        parts = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(parts, list):
            raise ValueError
        return tuple(_read(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, OverflowError, RecursionError) as error:
        raise ApiError(
            400, "cursor must be the `next` of a page", details={"field": "cursor"}
        ) from error


def like_pattern(part: str | None) -> str | None:
    """The LIKE pattern of a text that has this part in it, taken as it is."""
    if part is None:
        return None
    for mark in ("\\", "%", "_"):
        part = part.replace(mark, f"\\{mark}")
    return f"%{part}%"


def _read(part: object, kind: type) -> object:
    if kind is bool:
        if not isinstance(part, bool):
            raise ValueError
        return part
    if not isinstance(part, str) or "\0" in part:
        raise ValueError
    part.encode()  # Half a pair of surrogates is no text.
    if kind is int:
        number = int(part)
        if not -(2**63) <= number < 2**63:
            raise ValueError
        return number
    if kind is datetime:
        moment = datetime.fromisoformat(part)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    return UUID(part) if kind is UUID else part
