"""Checks the fields of an operation: which there are, what each must be, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taximeter.meter.sidecar.exact_json import millicredits_of
from taximeter.meter.sidecar.model_prices import PRICE_FIELDS
from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.meter.wire.operations import Op
from taximeter.meter.wire.usage import Usage

TTL_DEFAULT_S: Final = 60.0
NAME_LENGTH_MAX: Final = 64

_AMOUNTS = ("amount_credits", "amount_millicredits", "model")
# What makes an amount more than its number: the request path looks no further without them.
_NOT_PLAIN = frozenset(("amount_credits", "model", "usage", *PRICE_FIELDS))
_ACCOUNT = ("org_id", "user_id", "request_id")
_CHOICES = ("service_tier", "provider", "plan", "power_level")
_ACTUAL = (*_AMOUNTS, *_CHOICES, "tokens", "usage")

FIELDS: Final[Mapping[Op, frozenset[str]]] = {
    "reserve": frozenset(
        (
            *(*_ACCOUNT, *_AMOUNTS, "usage", "ttl_s"),
            *("prompt_tokens", "max_output_tokens", "n", "images", *_CHOICES),
        )
    ),
    "commit": frozenset((*_ACCOUNT, *_ACTUAL)),
    "release": frozenset(_ACCOUNT),
    "charge": frozenset((*_ACCOUNT, *_ACTUAL)),
    "touch": frozenset((*_ACCOUNT, *_ACTUAL, "ttl_s")),
}
"""Every field that an operation takes."""

_USAGE_FIELDS: Final = frozenset(("service_type", "service_name", "metadata"))


def check_names(fields: Mapping[str, Any], known: frozenset[str], prefix: str = "") -> None:
    """Raise InvalidRequest for a field that is not known: a misspelt one is never ignored."""
    if fields.keys() <= known:
        return
    name = next(name for name in fields if name not in known)
    raise InvalidRequest(
        f"{prefix}{name[:NAME_LENGTH_MAX]}",
        f"left out, as it is not a field here; the fields are {', '.join(sorted(known))}",
    )


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A required text. Its limits are checked by the meter."""
    value = fields.get(name)
    if type(value) is not str:
        raise InvalidRequest(name, "given, as text")
    return value


def request_id_of(fields: Mapping[str, Any]) -> str | None:
    """The request id, or None when it was left out."""
    return text_of(fields, "request_id") if "request_id" in fields else None


def ttl_of(fields: Mapping[str, Any]) -> float:
    """Seconds that a hold lives without a heartbeat. Its limits are checked by the meter."""
    ttl_s: float = fields.get("ttl_s", TTL_DEFAULT_S)
    return ttl_s


def amount_of(op: Op, fields: Mapping[str, Any]) -> tuple[int, Usage | None] | None:
    """Millicredits of the operation, and what they are for; None when a model is to be priced.

    Exactly one of amount_millicredits, amount_credits and model must be given; for a touch also
    none, which is 0.
    """
    amount = fields.get("amount_millicredits")
    if type(amount) is int and 0 <= amount <= AMOUNT_MAX and fields.keys().isdisjoint(_NOT_PLAIN):
        return amount, None
    given = [name for name in _AMOUNTS if name in fields]
    if len(given) != 1:
        if not given and op == "touch" and fields.keys().isdisjoint(PRICE_FIELDS):
            return 0, usage_of(fields)
        raise InvalidRequest("amount", f"given as exactly one of {', '.join(_AMOUNTS)}")
    if given[0] == "model":
        return None
    if not fields.keys().isdisjoint(PRICE_FIELDS):
        name = next(name for name in fields if name in PRICE_FIELDS)
        raise InvalidRequest(name, "left out unless model is given")
    if given[0] == "amount_credits":
        amount = millicredits_of(fields["amount_credits"], "amount_credits")
    elif type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
        limit = f"a whole number of millicredits from 0 to {AMOUNT_MAX}"
        raise InvalidRequest("amount_millicredits", limit)
    return amount, usage_of(fields)


def usage_of(fields: Mapping[str, Any]) -> Usage | None:
    """What a charge is for, or None when that was left out."""
    if "usage" not in fields:
        return None
    usage = fields["usage"]
    if type(usage) is not dict:
        raise InvalidRequest("usage", "a JSON object")
    check_names(usage, _USAGE_FIELDS, "usage.")
    for name in ("service_type", "service_name"):
        if name in usage and type(usage[name]) is not str:
            raise InvalidRequest(f"usage.{name}", "text")
    if type(usage.get("metadata", {})) is not dict:
        raise InvalidRequest("usage.metadata", "a JSON object")
    return Usage(**usage)
