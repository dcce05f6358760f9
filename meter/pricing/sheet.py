"""Holds a published price of one model, as its publisher states it: exact, and before any
markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from taximeter.meter.pricing.kinds import CAN_STAND_ALONE, KINDS

TierRule = Literal["whole", "part"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars for as many as the kind is sold by. `tiers` are (prompt tokens, dollars), ascending:
    a prompt of more tokens than that is in the tier.
    """

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def times(self, factor: Decimal | int, printed: Decimal | None = None) -> Rate:
        """The same, multiplied; rounded to what is printed, half up, if that is given."""

        def one(price: Decimal) -> Decimal:
            exact = price * factor
            return exact if printed is None else exact.quantize(printed, ROUND_HALF_UP)

        return Rate(one(self.base), tuple((start, one(price)) for start, price in self.tiers))


Rates = Mapping[str, Rate]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What one model costs, by kind.

    tier_rule: `whole` when a long prompt puts the whole request into the tier, `part` when only the
    tokens beyond the start of the tier cost its price. modes: other rates of a service tier, in
    full. context_window and max_output bound estimates; None when they are not known. not_metered:
    what the publisher charges for besides, and this meter cannot count. search_once: searches are
    charged once a request, however many there were. amended: the day as of which something was
    added to what its list has, else empty. geos: part of the world in which it ran, as the usage
    says it, -> the factor of all tokens.
    """

    rates: Rates
    tier_rule: TierRule = "whole"
    modes: Mapping[str, Rates] = field(default_factory=dict)
    context_window: int | None = None
    max_output: int | None = None
    not_metered: tuple[str, ...] = ()
    search_once: bool = False
    amended: str = ""
    geos: Mapping[str, Decimal] = field(default_factory=dict)

    def times(self, factor: Decimal | int, printed: Decimal | None = None) -> Sheet:
        """The same sheet with the prices of tokens multiplied, and rounded to what is printed if
        that is given; searches, images and the like cost what they cost everywhere.
        """
        if factor == 1:
            return self
        return replace(
            self,
            rates=_times(self.rates, factor, printed),
            modes={mode: _times(rates, factor, printed) for mode, rates in self.modes.items()},
        )

    def with_prices(self, own: Rates) -> Sheet:
        """Other prices of these kinds; also in the service tiers that have none of their own for
        them.
        """
        modes = {
            mode: {
                **rates,
                **{
                    kind: rate
                    for kind, rate in own.items()
                    if kind not in rates or rates[kind] == self.rates.get(kind)
                },
            }
            for mode, rates in self.modes.items()
        }
        return replace(self, rates={**self.rates, **own}, modes=modes)

    @property
    def is_price(self) -> bool:
        """Whether a model call can be priced by it at all."""
        return not CAN_STAND_ALONE.isdisjoint(self.rates)


def _times(rates: Rates, factor: Decimal | int, printed: Decimal | None) -> Rates:
    return {
        kind: rate.times(factor, printed) if KINDS[kind].side != "other" else rate
        for kind, rate in rates.items()
    }
