"""Reads and writes credits in JSON without a float in between.

In: the body is parsed with every number as `Decimal`, and only a plain number of at most three
decimals becomes millicredits. Out: `millicredits / 1000` is the double nearest to a number of at
most 15 significant digits, and the shortest text of that double is that number: so what a client
reads is exact, within the cap on balances.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from taximeter.api.web.json_shape import Shape, ShapeError
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT, exact_millicredits, fits
from taximeter.meter.wire.limits import AMOUNT_MAX, check_org_id, check_user_id

CENT = Decimal("0.01")
DOLLARS_MAX = Decimal("99999999.99")  # what decimal(10,2) holds


VALUES_MAX = 10_000
DEPTH_MAX = 32


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of a name that stands twice, two readers may see two values."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise json.JSONDecodeError(f"the name {name[:64]!r} stands twice", "", 0)
        members[name] = value
    return members


def parse_json(body: bytes) -> Any:
    """Parse JSON with exact numbers. Raises json.JSONDecodeError, also for NaN, Infinity, a name
    that stands twice in an object, and more than VALUES_MAX values or DEPTH_MAX levels.
    """
    try:
        Shape(VALUES_MAX, DEPTH_MAX).feed(body)
    except ShapeError as error:
        raise json.JSONDecodeError(f"it {error}", "", 0) from None

    def refuse(constant: str) -> Any:
        raise json.JSONDecodeError(f"{constant} is not a JSON number", constant, 0)

    try:
        return json.loads(
            body, parse_float=Decimal, parse_constant=refuse, object_pairs_hook=_members
        )
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # not UTF-8, or an integer of thousands of digits
        raise json.JSONDecodeError(str(error).split(":")[0], "", 0) from None


def positive_millicredits(value: object) -> int:
    """Turn a JSON number of credits into millicredits. Raises ValueError that names the limit."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError("must be a JSON number of credits")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("must be a finite number of credits")
    if number <= 0:
        raise ValueError("must be more than 0 credits")
    if number > AMOUNT_MAX // MILLICREDITS_PER_CREDIT:
        raise ValueError(f"must be at most {AMOUNT_MAX // MILLICREDITS_PER_CREDIT} credits")
    millicredits = exact_millicredits(number)
    if millicredits is None:
        raise ValueError("must have at most 3 decimals (the smallest unit is 0.001 credits)")
    return millicredits


def dollars_of(value: object) -> Decimal:
    """Accept a JSON number of dollars with at most two decimals. Raises ValueError that names the
    limit.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError("must be a JSON number of dollars")
    number = Decimal(value)
    if not number.is_finite() or number < 0:
        raise ValueError("must be at least 0 dollars")
    if number > DOLLARS_MAX:
        raise ValueError(f"must be at most {DOLLARS_MAX} dollars")
    if not fits(number, 2):
        raise ValueError("must have at most 2 decimals")
    return number.quantize(CENT)


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    def validate(value: str) -> str:
        try:
            check(value)
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        return value

    return validate


def _without_blank_ends(value: str) -> str:
    if value != value.strip():
        raise ValueError("must not begin or end with a blank: paths and headers lose it")
    return value


def _no_part_of_a_path(value: str) -> str:
    if value in RESERVED_ORG_IDS:
        raise ValueError("this word is part of a path of the API and cannot name an organization")
    return value


def _printable(value: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not contain control characters")
    return value


RESERVED_ORG_IDS: Final = frozenset(
    (
        *("billing", "credits", "history", "invitations", "invoices", "orgs", "plans"),
        *("subscriptions", "system", "user", "users"),
    )
)
"""Words that stand in paths where an organisation may stand too. The database refuses them too."""


def _iso_text(what: str) -> Callable[[object], object]:
    """Times and days are texts: a number would be read as seconds since 1970, so that 20261102 is a
    day in August of that year.
    """

    def check(value: object) -> object:
        if not isinstance(value, str) or "-" not in value[1:]:
            raise ValueError(f"must be {what}")
        return value

    return check


_NUMBER = WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.001})
_DOLLARS = WithJsonSchema({"type": "number", "minimum": 0, "multipleOf": 0.01})
Credits = Annotated[int, BeforeValidator(positive_millicredits), _NUMBER]
Dollars = Annotated[Decimal, BeforeValidator(dollars_of), _DOLLARS]
OrgId = Annotated[str, AfterValidator(_checked(check_org_id))]
UserId = Annotated[str, AfterValidator(_checked(check_user_id))]
# Of whoever is new: those that are there keep their ids.
NewUserId = Annotated[UserId, AfterValidator(_without_blank_ends)]
NewOrgId = Annotated[OrgId, AfterValidator(_no_part_of_a_path)]
ShortText = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]


Day = Annotated[date, BeforeValidator(_iso_text("a day such as 2026-11-02"))]
Time = Annotated[datetime, BeforeValidator(_iso_text("a time such as 2030-01-31T00:00:00Z"))]


def in_the_future(value: datetime) -> datetime:
    """The time, if it is to come and says its time zone. Raises ValueError."""
    if value.tzinfo is None:
        raise ValueError("must say its time zone, such as 2030-01-31T00:00:00Z")
    if value <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return value


def check_email(value: str) -> str:
    """The text, if it looks like an email address. Raises ValueError."""
    name, at, domain = value.rpartition("@")
    if not (name and at and "." in domain) or any(mark in value for mark in " <>"):
        raise ValueError("must be an email address")
    return value


class Body(BaseModel):
    """Base of every request body: unknown fields are refused, so that a misspelt one is not
    ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
