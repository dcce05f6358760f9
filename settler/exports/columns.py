"""Lists the columns of every kind of export: the one table from which CSV heads, Parquet schemas
and docs/exports.md are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Final, Literal

from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

SCHEMA_VERSION: Final = 1
"""Grows when a column is taken away or means something else; new columns are added at the end."""

Type = Literal["text", "json", "whole", "credits", "money", "day", "moment", "yes_no"]
TYPES: Final[Mapping[Type, tuple[str, str]]] = {
    "text": ("string", "text"),
    "json": ("string", "JSON as text"),
    "whole": ("int64", "whole number"),
    "credits": ("decimal128(21, 3)", "exact decimal, three digits after the point"),
    "money": ("decimal128(38, 12)", "exact decimal"),
    "day": ("date32", "`2026-11-29`"),
    "moment": ("timestamp[us, tz=UTC]", "`2026-11-29T12:00:00.000001Z`"),
    "yes_no": ("bool", "`true` or `false`"),
}
"""What Parquet has a value as, and what CSV writes."""

_PRICE_TEXT_MAX: Final = 1_000
_WHOLE_MAX: Final = 2**63 - 1

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """What FOCUS asks for and no book knows: what a credit is worth in a currency, and who sells.
    Nothing is said in money without a `credit_price`.
    """

    credit_price: Decimal | None = None
    currency: str = "USD"
    provider: str = "Taximeter"


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `read` makes its value of a row that Postgres or an archive has answered."""

    name: str
    type: Type
    about: str
    read: Callable[[Row, Terms], Any]
    nullable: bool = False


@dataclass(frozen=True)
class Kind:
    """What can be exported. `amount`: the column of rows, in millicredits, that is added up."""

    name: str
    about: str
    amount: str | None
    columns: tuple[Column, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def values(self, row: Row, terms: Terms) -> tuple[Any, ...]:
        """The values of a row, in the order of the columns."""
        return tuple([column.read(row, terms) for column in self.columns])

    def amount_of(self, row: Row) -> int:
        """What a row adds to the sum of millicredits."""
        return 0 if self.amount is None else int(row[self.amount] or 0)


def credits_exactly(millicredits: int) -> Decimal:
    """Credits, with their three digits."""
    return Decimal(millicredits).scaleb(-3)


assert MILLICREDITS_PER_CREDIT == 10**3


def _same(name: str) -> Callable[[Row, Terms], Any]:
    return lambda row, terms: row[name]


def _in_credits(name: str) -> Callable[[Row, Terms], Any]:
    return lambda row, terms: credits_exactly(row[name])


def _moment(name: str) -> Callable[[Row, Terms], Any]:
    return lambda row, terms: row[name].astimezone(UTC)


def _plain(
    name: str, type: Type, about: str, *, nullable: bool = False, of: str | None = None
) -> Column:
    """A column with the value that its source has, under the name `of`."""
    source = of or name
    read = _moment(source) if type == "moment" else _same(source)
    return Column(name, type, about, read, nullable)


def _amounts(of: str, stem: str, about: str) -> tuple[Column, Column]:
    """An amount twice: in whole millicredits, and in credits."""
    return (
        Column(f"{stem}_millicredits", "whole", f"{about}, in millicredits", _same(of)),
        Column(f"{stem}_credits", "credits", "the same in credits", _in_credits(of)),
    )


def metadata_of(row: Row) -> Mapping[str, Any]:
    """What the caller of a request has said of it; nothing where that is no object."""
    known = row["metadata"]
    found = json.loads(known) if isinstance(known, str) else known
    return found if isinstance(found, dict) else {}


def _said(name: str) -> Callable[[Row, Terms], str | None]:
    def read(row: Row, terms: Terms) -> str | None:
        value = row["said"].get(name)
        return value[:_PRICE_TEXT_MAX] if isinstance(value, str) else None

    return read


def _said_day(name: str) -> Callable[[Row, Terms], date | None]:
    def read(row: Row, terms: Terms) -> date | None:
        try:
            return date.fromisoformat(str(row["said"].get(name)))
        except ValueError:
            return None

    return read


def _said_count(name: str) -> Callable[[Row, Terms], int | None]:
    def read(row: Row, terms: Terms) -> int | None:
        value = row["said"].get(name)
        return value if type(value) is int and 0 <= value <= _WHOLE_MAX else None

    return read


ORG: Final = _plain("org_id", "text", "the organisation")
_USER: Final = _plain("user_id", "text", "the user")
_SERVICE: Final = (
    _plain("service_type", "text", "the kind of service"),
    _plain("service_name", "text", "the model or service; empty where nobody said"),
)

USAGE: Final = Kind(
    "usage",
    "a row for each day, organisation, user, kind of service and model",
    "credits_used",
    (
        _plain("day", "day", "the day, in UTC"),
        ORG,
        _USER,
        *_SERVICE,
        _plain("requests", "whole", "charges"),
        *_amounts("credits_used", "used", "what they came to"),
    ),
)

REQUESTS: Final = Kind(
    "requests",
    "a row for each charge",
    "credits_used",
    (
        _plain("id", "whole", "number of the row, in no order that means anything"),
        _plain("created_at", "moment", "when it was charged"),
        ORG,
        _USER,
        *_SERVICE,
        *_amounts("credits_used", "used", "what was charged"),
        *_amounts("reserved", "reserved", "the estimate that was held for it"),
        _plain("request_id", "text", "the id of the request", nullable=True),
        _plain("late", "yes_no", "its hold had ended before the charge came"),
        Column("model", "text", "the model that was asked for", _said("model"), True),
        Column("provider", "text", "who answered", _said("provider"), True),
        Column("input_tokens", "whole", "tokens of the prompt", _said_count("prompt_tokens"), True),
        Column(
            *("output_tokens", "whole", "tokens of the answer"),
            _said_count("completion_tokens"),
            True,
        ),
        Column("price_of", "text", "the model whose price was taken", _said("price_of"), True),
        Column("price_source", "text", "which list of prices", _said("price_source"), True),
        Column("price_version", "text", "its version", _said("price_version"), True),
        Column("price_dated", "day", "the day of its prices", _said_day("price_dated"), True),
        Column("metadata", "json", "all that the caller has said", _same("metadata")),
    ),
)

LEDGER: Final = Kind(
    "ledger",
    "a row for each entry of an account: credits that were allocated, moved, taken back or"
    " repaired; what requests cost is not among them",
    "delta",
    (
        ORG,
        _USER,
        _plain("entry", "whole", "its number in the account, from 1 on", of="entry_seq"),
        _plain("created_at", "moment", "when it was written"),
        _plain("kind", "text", "what it was"),
        *_amounts("delta", "change", "what it changed, negative where credits went"),
        _plain("reference", "text", "what it refers to", nullable=True),
    ),
)

AUDIT: Final = Kind(
    "audit",
    "a row for each act in the audit log; what is called credits in `before` and `after` is"
    " millicredits, as in the tables",
    None,
    (
        _plain("id", "whole", "number of the row"),
        _plain("at", "moment", "when"),
        _plain("actor", "text", "who: a user, or a part of the system"),
        _plain("action", "text", "what"),
        _plain("org_id", "text", "the organisation, where it is of one", nullable=True),
        _plain("target", "text", "of what", nullable=True),
        _plain("before", "json", "the state before", nullable=True),
        _plain("after", "json", "the state after", nullable=True),
        _plain("request_id", "text", "the request's id", nullable=True),
    ),
)


def month_of(day: date) -> tuple[datetime, datetime]:
    """The first moments of the month of a day and of the next one."""
    following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    start, end = (
        datetime(one.year, one.month, 1, tzinfo=UTC) for one in (day.replace(day=1), following)
    )
    return start, end
