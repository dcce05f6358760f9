"""Writes the list of the package `genai-prices` as JSON, so that it can be kept and handed on: in
the form in which its authors publish it (`prices/new_data/v2/data.json`), which is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from taximeter.meter.pricing.price_file import PriceFileError

if TYPE_CHECKING:
    from genai_prices.types import Provider

_LEFT_OUT: Final = frozenset(("extractors", "description", "price_comments", "pricing_urls"))
"""What a price does not depend on."""


def list_text(providers: Iterable[Provider]) -> bytes:
    """The list as JSON, without what no price depends on."""
    return json.dumps([_plain(one) for one in providers], separators=(",", ":")).encode()


def read_list(content: bytes) -> list[Provider]:
    """The list that `list_text` wrote, or that the authors of the package publish. Raises
    PriceFileError for what is none, ModuleNotFoundError without the package.
    """
    from genai_prices import types

    try:
        document = json.loads(content)
        if not isinstance(document, list) or not document:
            raise ValueError("it must be a list of providers")
        return types._providers_from_raw(document)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # Another version of the package may have no such function, or another form of its list.
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PriceFileError([f"this is no list of genai-prices: {first}"]) from None


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif hasattr(value, "calc_price"):  # A price has a field for each of what it prices.
        pairs = list(vars(value).items())
    else:
        return value
    return {
        # `or` and `and` are words of Python.
        name.rstrip("_"): _plain(one)
        for name, one in pairs
        if one is not None and not name.startswith("_") and name not in _LEFT_OUT
    }
