"""Reads charges and reserves that come many at once, and makes an operation of each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from taximeter.meter.wire.errors import InvalidRequest, MeterError
from taximeter.meter.wire.ids import new_request_id
from taximeter.meter.wire.limits import check_ttl
from taximeter.meter.wire.operations import Operation, operation_of
from taximeter.meter.wire.usage import Usage

MANY_MAX: Final = 1000
"""Most charges or reserves of one call. Nobody else's call goes on while they are prepared, which
takes a few milliseconds.
"""

_T = TypeVar("_T")


class Charge(NamedTuple):
    """One of `Meter.charge_many`: what `Meter.charge` takes. `amount` is millicredits; without a
    request id it gets one of its own.
    """

    org_id: str
    user_id: str
    amount: int
    request_id: str | None = None
    usage: Usage | None = None


class Reserve(NamedTuple):
    """One of `Meter.reserve_many`: what `Meter.reserve` takes. `amount` is millicredits, `ttl_s`
    seconds without a heartbeat.
    """

    org_id: str
    user_id: str
    amount: int
    request_id: str | None = None
    ttl_s: float = 60.0
    usage: Usage | None = None
    opener: str = ""


PlainCharge = tuple[str, str, int, str | None, Usage | None]
"""The fields of a Charge, for who makes none."""
PlainReserve = tuple[str, str, int, str | None, float, Usage | None, str]
"""The fields of a Reserve."""


def charge_operations(charges: Iterable[Charge | PlainCharge]) -> list[Operation | MeterError]:
    """The operation of each, or what is wrong with its values. Raises InvalidRequest for what is no
    charge, and for more than MANY_MAX.
    """
    made: list[Operation | MeterError] = []
    for number, charge in enumerate(_at_most(charges, "charges")):
        try:
            org_id, user_id, amount, request_id, usage = charge
        except (TypeError, ValueError):
            raise InvalidRequest(f"charges[{number}]", "a Charge, or its five fields") from None
        if request_id is None:
            request_id = new_request_id()
        try:
            made.append(operation_of("charge", org_id, user_id, request_id, amount, 0, usage))
        except InvalidRequest as error:
            made.append(error)
    return made


def reserve_operations(reserves: Iterable[Reserve | PlainReserve]) -> list[Operation | MeterError]:
    """The same for reserves."""
    made: list[Operation | MeterError] = []
    for number, reserve in enumerate(_at_most(reserves, "reserves")):
        try:
            org_id, user_id, amount, request_id, ttl_s, usage, opener = reserve
        except (TypeError, ValueError):
            limit = "a Reserve, or its seven fields"
            raise InvalidRequest(f"reserves[{number}]", limit) from None
        if request_id is None:
            request_id = new_request_id()
        try:
            ttl_ms = check_ttl(ttl_s)
            made.append(
                operation_of("reserve", org_id, user_id, request_id, amount, ttl_ms, usage, opener)
            )
        except InvalidRequest as error:
            made.append(error)
    return made


def _at_most(many: Iterable[_T], field: str) -> list[_T]:
    found = list(islice(many, MANY_MAX + 1))
    if len(found) > MANY_MAX:
        raise InvalidRequest(field, f"at most {MANY_MAX} of one call")
    return found
