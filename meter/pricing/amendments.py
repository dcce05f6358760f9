"""Corrects the published list by pattern: what a host publishes for many models at once.

A correction in `corrections.toml` is the whole price of a model. An amendment adds to the price
that the list has, or mends one kind of it: the service tiers of a host as factors, the long prompts
of a model, the price of a search. `amendments.toml` has them, each with its source and date.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import translate
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from taximeter.meter.pricing.kinds import KINDS
from taximeter.meter.pricing.sheet import Rate, Rates, Sheet

NAME: Final = "amendments.toml"
_FIELDS: Final = frozenset(
    ("models", "but_not", "prices", "shares", "long", "service_tiers", "search_once", "geos")
) | {"source", "as_of"}


class Tier(NamedTuple):
    """A service tier: a factor of all tokens, but for kinds with dollars of their own and those
    that cost as usual.
    """

    factor: Decimal
    own: Mapping[str, Decimal]
    as_usual: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Amendment:
    """One correction. `models` are patterns of `host/name` with `*`, without those of `but_not`.

    prices: dollars by kind, as in a price file; they stand for what the list has. shares: kind ->
    the kind of whose price it is a part, and which; where the list has no price of it. long:
    prompts of more tokens than that, and the factors of prompt and output; where the list, or one
    of its service tiers, has no tiers. service_tiers: by name, where the list has no such tier.
    search_once: searches are charged once a request, however many there were. geos: factors of
    all tokens by the part of the world that a usage says it ran in.
    """

    models: tuple[str, ...]
    but_not: tuple[str, ...]
    prices: Mapping[str, Decimal]
    shares: Mapping[str, tuple[str, Decimal]]
    long: tuple[int, Decimal, Decimal] | None
    service_tiers: Mapping[str, Tier]
    search_once: bool
    geos: Mapping[str, Decimal]
    source: str
    as_of: str

    def is_for(self, *names: str) -> bool:
        """Whether it is for the model of these names, each as `host/name` in small letters."""
        return _any(names, self.models) and not _any(names, self.but_not)

    def of(self, sheet: Sheet) -> Sheet:
        """The sheet as it should be, but for the service tiers."""
        sheet = sheet.with_prices({kind: Rate(price) for kind, price in self.prices.items()})
        for kind, (parent, share) in self.shares.items():
            if kind not in sheet.rates and parent in sheet.rates:
                sheet = _shared(sheet, kind, parent, share)
        if self.long is not None:
            sheet = replace(
                sheet,
                rates=_longer(sheet.rates, self.long),
                modes={mode: _longer(rates, self.long) for mode, rates in sheet.modes.items()},
            )
        if self.geos:
            sheet = replace(sheet, geos={**self.geos, **sheet.geos})
        return replace(sheet, search_once=True) if self.search_once else sheet

    def with_tiers(self, sheet: Sheet) -> Sheet:
        """The sheet with the service tiers that it lacks."""
        modes = dict(sheet.modes)
        for mode, (factor, own, as_usual) in self.service_tiers.items():
            if mode not in modes:
                rates = {**sheet.times(factor).rates}
                rates |= {kind: sheet.rates[kind] for kind in as_usual if kind in sheet.rates}
                modes[mode] = {**rates, **{kind: Rate(price) for kind, price in own.items()}}
        return replace(sheet, modes=modes)


def amended(sheet: Sheet, *names: str) -> Sheet:
    """A sheet with all that is published besides for a model under these names, as `host/name`; an
    amendment that comes first in the file goes before another. The sheet says when what was added
    to it was read.
    """
    wanted = [one for one in amendments() if one.is_for(*names)]
    found = sheet
    for one in wanted:
        found = one.of(found)
    for one in wanted:
        found = one.with_tiers(found)
    if found == sheet:
        return sheet
    return replace(found, amended=max(one.as_of for one in wanted))


@cache
def amendments() -> tuple[Amendment, ...]:
    """Those of the package. Raises ValueError for a file with a mistake: it is ours."""
    text = files("taximeter.meter.pricing").joinpath(NAME).read_text(encoding="utf-8")
    return parse_amendments(text)


def parse_amendments(text: str) -> tuple[Amendment, ...]:
    """Read a file of them. Raises ValueError, KeyError, TypeError."""
    listed = tomllib.loads(text, parse_float=Decimal)["amendment"]
    return tuple(_amendment(fields) for fields in listed)


def _amendment(fields: dict[str, Any]) -> Amendment:
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(f"{NAME}: no such fields: {', '.join(sorted(unknown))}")
    long = fields.get("long")
    return Amendment(
        models=tuple(fields["models"]),
        but_not=tuple(fields.get("but_not", ())),
        prices=_dollars(fields.get("prices", {})),
        shares={
            _kind(kind): (_kind(one["of"]), Decimal(one["share"]))
            for kind, one in fields.get("shares", {}).items()
        },
        long=(
            None
            if long is None
            else (int(long["above"]), Decimal(long["prompt"]), Decimal(long["output"]))
        ),
        service_tiers={
            mode: _tier(change) for mode, change in fields.get("service_tiers", {}).items()
        },
        search_once=bool(fields.get("search_once", False)),
        geos={geo: Decimal(factor) for geo, factor in fields.get("geos", {}).items()},
        source=str(fields["source"]),
        as_of=str(fields["as_of"]),
    )


def _dollars(fields: Mapping[str, Any]) -> dict[str, Decimal]:
    return {_kind(kind): Decimal(price) for kind, price in fields.items()}


def _tier(change: Any) -> Tier:
    if not isinstance(change, dict):
        return Tier(Decimal(change), {}, ())
    own = dict(change)
    factor, as_usual = Decimal(own.pop("factor", 1)), own.pop("as_usual", ())
    return Tier(factor, _dollars(own), tuple(map(_kind, as_usual)))


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"{NAME}: {name} is no kind of usage")
    return name


def _shared(sheet: Sheet, kind: str, parent: str, share: Decimal) -> Sheet:
    modes = {
        mode: rates if kind in rates else {**rates, kind: rates[parent].times(share)}
        for mode, rates in sheet.modes.items()
    }
    rates = {**sheet.rates, kind: sheet.rates[parent].times(share)}
    return replace(sheet, rates=rates, modes=modes)


def _longer(rates: Rates, long: tuple[int, Decimal, Decimal]) -> Rates:
    if any(rate.tiers for rate in rates.values()):
        return rates
    above, prompt, output = long
    factors = {"prompt": prompt, "output": output}
    return {
        kind: (
            Rate(rate.base, ((above, rate.base * factors[KINDS[kind].side]),))
            if KINDS[kind].side in factors
            else rate
        )
        for kind, rate in rates.items()
    }


def _any(names: Iterable[str], patterns: tuple[str, ...]) -> bool:
    matches = _one_of(patterns).match
    return any(matches(name) for name in names)


@cache
def _one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """All of them at once, as there are hundreds, and each model of a list is compared with them
    all. Of none, what nothing matches.
    """
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")
