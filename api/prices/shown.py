"""Tells the price of a model for people: each rate in dollars, as published, and in credits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from taximeter.meter.pricing import KINDS
from taximeter.meter.pricing.sheet import Sheet


class ShownRate(NamedTuple):
    """What `unit` of a kind cost, in a service tier (empty: any), for prompts of more than
    `above_tokens` (None: from the first on). Both prices are exact.
    """

    service_tier: str
    kind: str
    unit: str
    above_tokens: int | None
    dollars: str
    credits: str


def shown_rates(sheet: Sheet, credits_of_a_dollar: Decimal) -> Iterator[ShownRate]:
    """Every rate of a sheet, those of the service tiers last."""
    for tier, rates in {"": sheet.rates, **sheet.modes}.items():
        for kind, what in KINDS.items():
            rate = rates.get(kind)
            if rate is None:
                continue
            unit = f"{what.per:,} {what.words}" if what.per > 1 else what.words
            steps: list[tuple[int | None, Decimal]] = [(None, rate.base), *rate.tiers]
            for above, dollars in steps:
                yield ShownRate(
                    tier, kind, unit, above, _plain(dollars), _plain(dollars * credits_of_a_dollar)
                )


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"
