"""Computes what a plan that changes within a period costs for the rest of it."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_UP, Decimal

from taximeter.api.web.json_numbers import CENT


def prorate(old_price: Decimal, new_price: Decimal, start: date, end: date, today: date) -> Decimal:
    """The difference of two monthly prices for the days of [start, end) from `today` on, in dollars
    to the cent, halves away from zero. Nothing outside of the period, or in one without days.
    """
    days = (end - start).days
    left = min(max((end - today).days, 0), days)
    if days == 0:
        return Decimal("0.00")
    return ((new_price - old_price) * left / days).quantize(CENT, ROUND_HALF_UP)
