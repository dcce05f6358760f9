"""Reads JSON without loss: exact numbers, no duplicate names, no constants outside of JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from taximeter.meter.wire.credits import exact_millicredits
from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import AMOUNT_MAX

VALUES_MAX = 100_000
"""Most values of one body, counted by the commas and brackets in it: far more than 500 operations
have.
"""
_MARKS = (b",", b"[", b"{")
CREDITS_MAX = AMOUNT_MAX // 1000
_CREDITS_LIMIT = f"a number or text of credits from 0 to {CREDITS_MAX} with at most 3 decimals"
_TEXT_LENGTH_MAX = 32


class ExactNumber(float):
    """A JSON number with a fraction or exponent, and how it was written.

    A float, so that metadata goes through as it came; the text, so that credits are read exactly.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> ExactNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number


class _BadJson(ValueError):
    pass


def _no_constant(constant: str) -> Any:
    raise _BadJson(f"valid JSON, which has no {constant}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _BadJson(f"without duplicate names, but has {_first_twice(pairs)[:64]!r} twice")
    return fields


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("asked for only where one stands twice")


_decoder: Any = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_float=ExactNumber,
    parse_constant=_no_constant,
)
_scan = _decoder.scan_once


def parse_object(body: bytes) -> dict[str, Any]:
    """Read the JSON object that `body` is. Raises InvalidRequest for the field `body`."""
    # A value costs a hundred times what a byte of text costs, and nobody else is served meanwhile.
    # Marks inside of texts count too: that takes no reading.
    if sum(map(body.count, _MARKS)) > VALUES_MAX:
        raise InvalidRequest("body", f"JSON of at most {VALUES_MAX} values")
    try:
        text = body.decode()
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            value, end = _decoder.decode(text), len(text)
        if end != len(text) and text[end:].strip(" \t\r\n"):
            raise InvalidRequest("body", "one JSON object, with nothing after it")
    except UnicodeDecodeError:
        raise InvalidRequest("body", "UTF-8") from None
    except RecursionError:
        raise InvalidRequest("body", "JSON that is nested less deeply") from None
    except _BadJson as error:
        raise InvalidRequest("body", str(error)) from None
    except json.JSONDecodeError as error:
        limit = f"valid JSON ({error.msg} at character {error.pos})"
        raise InvalidRequest("body", limit) from None
    except InvalidRequest:
        raise
    except ValueError:  # An integer of thousands of digits.
        raise InvalidRequest("body", "JSON with integers of at most 4300 digits") from None
    if type(value) is not dict:
        raise InvalidRequest("body", "a JSON object")
    return value


def millicredits_of(value: object, field: str) -> int:
    """Millicredits of an amount of credits: a JSON number, or text such as "0.125". Never rounds.

    Raises InvalidRequest naming `field`.
    """
    if type(value) is int:
        if not 0 <= value <= CREDITS_MAX:
            raise InvalidRequest(field, _CREDITS_LIMIT)
        return value * 1000
    if isinstance(value, ExactNumber):
        text = value.text
    elif isinstance(value, str) and _is_plain(value):
        text = value
    else:
        raise InvalidRequest(field, _CREDITS_LIMIT)
    if len(text) > _TEXT_LENGTH_MAX:
        raise InvalidRequest(field, f"{_CREDITS_LIMIT}, written in {_TEXT_LENGTH_MAX} characters")
    number = Decimal(text)
    if not 0 <= number <= CREDITS_MAX:
        raise InvalidRequest(field, _CREDITS_LIMIT)
    millicredits = exact_millicredits(number)
    if millicredits is None:
        raise InvalidRequest(field, _CREDITS_LIMIT)
    return millicredits


def _is_plain(text: str) -> bool:
    """Digits with at most one point between them: what Decimal takes besides is not ours."""
    whole, _, decimals = text.partition(".")
    digits = whole + decimals
    return digits.isascii() and digits.isdigit() and whole != "" and not text.endswith(".")
