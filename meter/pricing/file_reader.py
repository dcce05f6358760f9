"""Checks the document that a price file is, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from taximeter.meter.pricing.kinds import CAN_STAND_ALONE, KINDS
from taximeter.meter.pricing.off_peak import WHEN, OffPeak, off_peak_of
from taximeter.meter.pricing.sheet import Rate, Rates, Sheet, TierRule

DOLLARS_MAX: Final = 1_000_000
DECIMALS_MAX: Final = 24
NAME_LENGTH_MAX: Final = 256
CONTEXT_MAX: Final = 10**9
FACTOR_MAX: Final = 100

_TOP = frozenset(("version", "dated", "models"))
_NUMBERS = ("context_window", "max_output")
_REST = (
    *(*_NUMBERS, "provider", "tier_rule", "tiers", "service_tiers", "search_once", "not_metered"),
    *("geos", "off_peak"),
)
_MODEL = frozenset((*KINDS, *_REST))
_SOURCED = frozenset(("source", "as_of"))
_DAY: Final = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12]\d|3[01]))?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of a file. A provider that is not empty restricts it to that provider. Our own
    corrections say in `source` where the price is published, and in `as_of` when it was.
    `off_peak`: the hours of other prices, and what it costs then.
    """

    provider: str
    sheet: Sheet
    source: str = ""
    as_of: str = ""
    off_peak: tuple[OffPeak, Sheet] | None = None


class FileReader:
    """Checks a document, and gathers what is wrong with it. With `sourced`, each model must say
    where its price is published and when it was.
    """

    def __init__(self, name: str, text: str, *, sourced: bool = False) -> None:
        self.problems: list[str] = []
        self._sourced = sourced
        self._name = name
        self._lines = text.splitlines()

    def read(self, document: object) -> dict[str, Entry]:
        """The models by name, in small letters. What is wrong is in `problems` afterwards."""
        if not isinstance(document, dict):
            self._say("", "", "must be an object with the field models")
            return {}
        for key in document:
            if key not in _TOP:
                self._say("", key, f"is not a field here; the fields are {_words(_TOP)}")
        version = document.get("version", "")
        if not isinstance(version, str) or len(version) > 64 or not version.isprintable():
            self._say("", "version", "must be text of at most 64 characters")
        if (dated := document.get("dated")) is not None and day_of(dated) is None:
            self._say("", "dated", "must be a day such as 2026-11-30")
        models = document.get("models")
        if not isinstance(models, dict):
            self._say("", "models", "must be given, as a table of models")
            return {}
        found: dict[str, Entry] = {}
        for model, fields in models.items():
            if not 1 <= len(model) <= NAME_LENGTH_MAX or "*" in model[:-1]:
                limit = f"of 1 to {NAME_LENGTH_MAX} characters, with * at its end only"
                self._say(model, "", f"must be a name {limit}")
            elif model.lower() in found:
                self._say(model, "", "stands there twice, as capitals do not count")
            elif not isinstance(fields, dict):
                self._say(model, "", "must be a table of prices")
            else:
                found[model.lower()] = self._entry(model, fields)
        return found

    def _entry(self, model: str, fields: Mapping[str, object]) -> Entry:
        self._known(model, "", fields, _MODEL | _SOURCED if self._sourced else _MODEL)
        rates = self._rates(model, "", fields)
        if CAN_STAND_ALONE.isdisjoint(fields):
            self._say(model, "", f"must have a price for one of {_words(CAN_STAND_ALONE)}")
        rates = self._with_tiers(model, "tiers", fields, rates)
        modes: dict[str, Rates] = {}
        listed = fields.get("service_tiers", {})
        if not isinstance(listed, dict):
            self._say(model, "service_tiers", "must be a table of service tiers")
            listed = {}
        for mode, own in listed.items():
            place = f"service_tiers.{mode}"
            if not isinstance(own, dict):
                self._say(model, place, "must be a table of prices")
                continue
            self._known(model, f"{place}.", own, frozenset((*KINDS, "tiers")))
            changed = self._with_tiers(
                model, f"{place}.tiers", own, self._rates(model, f"{place}.", own)
            )
            modes[mode] = {**rates, **changed}
        rule: Any = fields.get("tier_rule", "whole")
        if rule not in ("whole", "part"):
            self._say(model, "tier_rule", "must be whole or part")
        provider = fields.get("provider", "")
        if not isinstance(provider, str) or len(provider) > 64:
            self._say(model, "provider", "must be text of at most 64 characters")
        once = fields.get("search_once", False)
        if not isinstance(once, bool):
            self._say(model, "search_once", "must be true or false")
        rest = fields.get("not_metered", [])
        if not isinstance(rest, list) or not all(isinstance(one, str) for one in rest):
            self._say(model, "not_metered", "must be a list of texts")
            rest = []
        context, output = (self._count(model, name, fields) for name in _NUMBERS)
        kept: TierRule = rule
        sheet = Sheet(
            rates,
            kept,
            modes,
            context,
            output,
            tuple(rest),
            once is True,
            geos=self._geos(model, fields),
        )
        source, as_of = self._source(model, fields) if self._sourced else ("", "")
        return Entry(str(provider), sheet, source, as_of, self._off_peak(model, fields, sheet))

    def _geos(self, model: str, fields: Mapping[str, object]) -> dict[str, Decimal]:
        listed = fields.get("geos", {})
        if not isinstance(listed, dict):
            self._say(model, "geos", "must be a table of factors")
            return {}
        found: dict[str, Decimal] = {}
        for geo, factor in listed.items():
            try:
                found[geo.lower()] = dollars_of(factor)
                if not 0 < found[geo.lower()] <= FACTOR_MAX:
                    raise ValueError
            except ValueError:
                self._say(model, f"geos.{geo}", f"must be a factor above 0, at most {FACTOR_MAX}")
        return found

    def _off_peak(
        self, model: str, fields: Mapping[str, object], sheet: Sheet
    ) -> tuple[OffPeak, Sheet] | None:
        block = fields.get("off_peak")
        if block is None:
            return None
        if not isinstance(block, dict):
            self._say(model, "off_peak", "must be a table of hours and prices")
            return None
        self._known(model, "off_peak.", block, WHEN | frozenset(KINDS))
        own = self._rates(model, "off_peak.", block)
        if not own:
            self._say(model, "off_peak", "must have a price")
        try:
            return off_peak_of(block), sheet.with_prices(own)
        except ValueError as error:
            self._say(model, "off_peak", str(error))
            return None

    def _source(self, model: str, fields: Mapping[str, object]) -> tuple[str, str]:
        source, as_of = fields.get("source"), fields.get("as_of")
        if not isinstance(source, str) or not source.startswith("https://"):
            self._say(model, "source", "must be given, as the https:// address of a page")
        if not isinstance(as_of, str) or not _DAY.fullmatch(as_of):
            self._say(model, "as_of", "must be given, as a day or month such as 2026-11")
        return str(source), str(as_of)

    def _with_tiers(
        self, model: str, place: str, fields: Mapping[str, object], rates: dict[str, Rate]
    ) -> dict[str, Rate]:
        listed = fields.get("tiers", [])
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            self._say(model, place, "must be a list of tables")
            return rates
        found = dict(rates)
        before = 0
        for number, tier in enumerate(listed, 1):
            here = f"{place}[{number}]."
            self._known(model, here, tier, frozenset((*KINDS, "above")))
            start = tier.get("above")
            if type(start) is not int or not before < start <= CONTEXT_MAX:
                limit = f"a whole number of prompt tokens above {before}"
                self._say(model, f"{here}above", f"must be {limit}")
                continue
            before = start
            for kind, rate in self._rates(model, here, tier).items():
                if kind not in found:
                    self._say(model, f"{here}{kind}", "must also have a price below the tier")
                elif KINDS[kind].side == "other":
                    self._say(model, f"{here}{kind}", "must be left out: tiers are for tokens")
                else:
                    base = found[kind]
                    found[kind] = Rate(base.base, (*base.tiers, (start, rate.base)))
        return found

    def _rates(self, model: str, place: str, fields: Mapping[str, object]) -> dict[str, Rate]:
        found: dict[str, Rate] = {}
        for kind in KINDS:
            if kind in fields:
                try:
                    found[kind] = Rate(dollars_of(fields[kind]))
                except ValueError as error:
                    self._say(model, f"{place}{kind}", f"must be {error}")
        return found

    def _count(self, model: str, name: str, fields: Mapping[str, object]) -> int | None:
        value = fields.get(name)
        if value is None:
            return None
        if type(value) is not int or not 1 <= value <= CONTEXT_MAX:
            self._say(model, name, f"must be a whole number of tokens from 1 to {CONTEXT_MAX}")
            return None
        return value

    def _known(
        self, model: str, place: str, fields: Mapping[str, object], known: frozenset[str]
    ) -> None:
        for name in fields:
            if name not in known:
                self._say(model, f"{place}{name}", f"is no field; the fields are {_words(known)}")

    def _say(self, model: str, name: str, problem: str) -> None:
        line = self._line(model, name)
        where = f"{self._name}, line {line}" if line else self._name
        what = " ".join(filter(None, (f'model "{model}"' if model else "", name)))
        self.problems.append(f"{where}: {what or 'the file'} {problem}")

    def _line(self, model: str, name: str) -> int:
        """The line of a field, found by its words: the parsers keep no places."""
        start = 0
        if model:
            key = re.compile(rf"""(?<![\w-]){re.escape(model)}(?=["']?\s*[\]=:])""").search
            start = self._first(0, lambda line: bool(key(line)))
        last = re.sub(r"\[\d+\]", "", name).rpartition(".")[2]
        if last:
            is_it = re.compile(rf"(?<![\w]){re.escape(last)}(?![\w])").search
            return self._first(max(start - 1, 0), lambda line: bool(is_it(line))) or start
        return start

    def _first(self, start: int, test: Callable[[str], bool]) -> int:
        places = range(start, len(self._lines))
        return next((place + 1 for place in places if test(self._lines[place])), 0)


def day_of(value: object) -> date | None:
    """A day, as TOML has it or as text; None for what is none."""
    if isinstance(value, datetime):
        return None
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _words(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def dollars_of(value: object) -> Decimal:
    """A price as written: a number, or text that is one. Raises ValueError that says the limit."""
    limit = f"a number of dollars from 0 to {DOLLARS_MAX} with at most {DECIMALS_MAX} decimals"
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        raise ValueError(limit)
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(limit) from None
    if not number.is_finite() or not 0 <= number <= DOLLARS_MAX:
        raise ValueError(limit)
    exponent = number.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > DECIMALS_MAX:
        raise ValueError(limit)
    return number
