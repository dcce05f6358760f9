"""Turns a sheet into rates: whole numbers of a part of a millicredit, packed and summed up."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from taximeter.meter.pricing.kinds import KINDS
from taximeter.meter.pricing.sheet import Rates

WholeRate = tuple[int, tuple[tuple[int, int], ...]]
"""The price of one, and that above each context size."""
_NOTHING: WholeRate = (0, ())
_Exact = tuple[Fraction, tuple[tuple[int, Fraction], ...]]


def exact_rates(rates: Rates, factor: Fraction) -> dict[str, _Exact]:
    """Millicredits for one of each kind."""
    found = {}
    for kind, rate in rates.items():
        one = factor / KINDS[kind].per
        tiers = tuple((start, Fraction(price) * one) for start, price in rate.tiers)
        found[kind] = (Fraction(rate.base) * one, tiers)
    return found


def whole_rates(rates: Mapping[str, _Exact], parts: int) -> dict[str, WholeRate]:
    """The same as whole numbers, where a millicredit has this many parts."""
    return {
        kind: (int(base * parts), tuple((start, int(price * parts)) for start, price in tiers))
        for kind, (base, tiers) in rates.items()
    }


def rate_of(kind: str, rates: Mapping[str, WholeRate]) -> WholeRate:
    """The price of a kind, or that of its nearest parent that has one."""
    for name in (kind, *KINDS[kind].parents):
        if name in rates:
            return rates[name]
    return _NOTHING


def sum_in_parts(rates: Mapping[str, WholeRate], kinds: Mapping[str, int]) -> int:
    """The sum where only what lies beyond the start of a tier costs its price: the prompt in the
    order in which it is read, then the output.
    """
    total = position = 0
    for kind, what in KINDS.items():
        count = kinds.get(kind, 0)
        price, tiers = rates[kind]
        if what.side == "other":
            total += 0 if kind == "request" else price * count
            continue
        end = position + count
        steps = [(0, price), *tiers]
        for place, (start, at) in enumerate(steps):
            stop = steps[place + 1][0] if place + 1 < len(steps) else end
            total += at * max(0, min(end, stop) - max(position, start))
        position = end
    return total


def packed_rates(rates: Mapping[str, WholeRate]) -> dict[str, Any]:
    """Rates as JSON."""
    return {kind: [price, *tiers] if tiers else price for kind, (price, tiers) in rates.items()}


def unpacked_rates(listed: Mapping[str, Any]) -> dict[str, WholeRate]:
    """The rates that `packed_rates` wrote. Raises ValueError, TypeError."""
    found: dict[str, WholeRate] = {}
    for kind, value in listed.items():
        price, *tiers = value if isinstance(value, list) else [value]
        if kind not in KINDS or not all(
            type(one) is int and one >= 0 for one in (price, *(x for tier in tiers for x in tier))
        ):
            raise ValueError(kind)
        found[kind] = (price, tuple((start, dearer) for start, dearer in tiers))
    return found
