"""Reads and writes credits exactly: one credit is 1000 millicredits."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

MILLICREDITS_PER_CREDIT: Final = 1000


def credits_of(millicredits: int) -> float:
    """Millicredits as the JSON number of credits: exact within the cap on balances, since the
    double nearest to a number of at most 15 digits has that number as its shortest text.
    """
    return millicredits / MILLICREDITS_PER_CREDIT


def text_of_credits(millicredits: int) -> str:
    """Credits as text with exactly three decimals: 50 millicredits are `0.050`."""
    sign = "-" if millicredits < 0 else ""
    whole, rest = divmod(abs(millicredits), MILLICREDITS_PER_CREDIT)
    return f"{sign}{whole}.{rest:03d}"


def exact_millicredits(credits: Decimal) -> int | None:
    """Millicredits of a finite number of credits; None if it has more than three decimals. Nothing
    is rounded.
    """
    if not fits(credits, 3):
        return None
    return int(credits.scaleb(3)) if credits else 0


def fits(number: Decimal, decimals: int) -> bool:
    """Whether only zeros stand behind so many decimals: 0.0030 fits three. An absurd exponent costs
    nothing, since nothing is computed.
    """
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return False
    surplus = -exponent - decimals
    return surplus <= 0 or not number or not any(digits[-surplus:])
