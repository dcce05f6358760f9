"""Writes credits: one credit is 1000 millicredits."""

from __future__ import annotations

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
