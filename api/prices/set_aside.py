"""Sets aside usages for which LiteLLM's map has no price that could be compared, by named rules.

Most rules look at the map alone, before anything is compared: what it costs here makes no
difference to them. The others are asked only where both differ, and say exactly how the two must
then be related; so a wrong price of ours is none of their cases. Each has a test, and
docs/prices-diff.md says of each why the map cannot be followed there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import Any, Final

from taximeter.meter.pricing.identity import identify
from taximeter.meter.pricing.litellm_map import kinds_of
from taximeter.meter.pricing.price import Price
from taximeter.meter.pricing.published import Listed
from taximeter.meter.pricing.rates import rate_of
from taximeter.meter.pricing.usage_objects import Counts


@dataclass(frozen=True, slots=True)
class Case:
    """One usage of one model: `document` is the map, `models` what was read of it as tables."""

    name: str
    document: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    mode: str
    counts: Counts
    at: datetime
    listed: Listed
    ours: Price
    theirs: Price

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the map has of the model."""
        return self.document[self.name]

    @property
    def own(self) -> Mapping[str, Any]:
        """The prices that the map has itself: of the service tier, if it is one."""
        table = self.models[self.name]
        tiers: Mapping[str, Mapping[str, Any]] = table.get("service_tiers", {})
        return tiers.get(self.mode, {}) if self.mode else table

    def dollars(self, price: Price, kind: str) -> Fraction:
        """Of a kind of token, for a million, as it is for this usage."""
        base, tiers = rate_of(kind, price.modes.get(self.mode, price.rates))
        for start, dearer in tiers:
            if self.counts.prompt > start:
                base = dearer
        # A dollar is 10**9 millicredits here.
        return Fraction(base, price.parts) / 1000


def rule_for(case: Case, *, differs: bool = False) -> str | None:
    """The first rule that sets a usage aside; with `differs` of those that are asked afterwards."""
    rules = OF_BOTH if differs else OF_THE_MAP
    return next((name for name, holds in rules.items() if holds(case)), None)


def _is_retired(case: Case) -> bool:
    """The map says that the model is no longer sold: nobody is charged either price."""
    day = case.fields.get("deprecation_date")
    try:
        return day is not None and date.fromisoformat(day) < case.at.date()
    except (TypeError, ValueError):
        return False


def _is_too_long(case: Case) -> bool:
    """The prompt does not fit into the model, by the map's own word."""
    most = case.fields.get("max_input_tokens")
    return isinstance(most, int) and 0 < most < case.counts.prompt


def _has_no_tier(case: Case) -> bool:
    """The map does not have the service tier: it would take the plain price."""
    return bool(case.mode) and not case.own


def _has_no_price(case: Case) -> bool:
    """The map has no price of a kind, or 0: it would take another kind's, another tier's, or
    none.
    """
    listed = kinds_of(case.fields)
    for kind in case.counts.kinds:
        if kind == "search":  # Searches cost the same in every service tier.
            price = case.models[case.name].get(kind)
        else:
            price = case.own.get(kind) if (case.mode, kind) in listed else None
        if not price:
            return True
    return False


def _has_no_long_price(case: Case) -> bool:
    """The map has other prices for long prompts, and not for this kind in this service tier."""
    plain = case.models[case.name]
    starts = [
        tier["above"] for tier in plain.get("tiers", ()) if case.counts.prompt > tier["above"]
    ]
    if not starts:
        return False
    of_the_tier = [tier for tier in case.own.get("tiers", ()) if tier["above"] == max(starts)]
    return any(
        kind not in of_the_tier[0] if of_the_tier else True
        for kind in case.counts.kinds
        if kind != "search"
    )


OF_THE_MAP: Final[Mapping[str, Callable[[Case], bool]]] = {
    "no_tier": _has_no_tier,
    "no_price": _has_no_price,
    "no_long_price": _has_no_long_price,
    "too_long": _is_too_long,
    "retired": _is_retired,
}
"""Asked of every usage, whatever it costs here."""

EXACT: Final = Fraction(1, 10**9)


def _equal(one: Fraction, other: Fraction) -> bool:
    """Equal but for what binary fractions add, in which some of the map is written."""
    return abs(one - other) <= max(one, other) * EXACT


_GEOGRAPHIES: Final = ("us.", "eu.", "jp.", "au.", "apac.")


def _is_its_global_price(case: Case) -> bool:
    """Under the bare name of a Bedrock model the map has the price of the global profile; the one
    that we have is the one that the map itself has for a geography.
    """
    if case.listed.provider != "aws" or identify(case.name).model.startswith(_GEOGRAPHIES):
        return False
    bare = identify(case.name, "aws").model
    if "." not in bare.partition("-")[0]:
        bare = f"anthropic.{bare}"
    of_geography = [
        case.models[name] for geo in _GEOGRAPHIES if (name := f"{geo}{bare}") in case.models
    ]
    return any(_same(case, table) for table in of_geography)


def _same(case: Case, table: Mapping[str, Any]) -> bool:
    tiers: Mapping[str, Mapping[str, Any]] = table.get("service_tiers", {})
    listed = {**table, **tiers.get(case.mode, {})} if case.mode else dict(table)
    for tier in listed.get("tiers", ()):
        if case.counts.prompt > tier["above"]:
            listed |= tier
    return all(
        kind in listed and _equal(Fraction(listed[kind]), case.dollars(case.ours, kind))
        for kind in case.counts.kinds
        if kind != "search"
    )


EURO_MIN, EURO_MAX = Fraction(105, 100), Fraction(125, 100)
HALF_A_CENT: Final = Fraction(5, 1000)


def _is_in_euros(case: Case) -> bool:
    """OVHcloud's page shows euros to Europeans and dollars to others: the map has the figure of the
    one as that of the other.
    """
    if case.listed.provider != "ovhcloud":
        return False
    for kind in case.counts.kinds:
        here, there = case.dollars(case.ours, kind), case.dollars(case.theirs, kind)
        # Both are printed in cents.
        if not (there - HALF_A_CENT) * EURO_MIN <= here <= (there + HALF_A_CENT) * EURO_MAX:
            return False
    return True


_THOUSANDTHS: Final = frozenset(("cloudflare", "databricks", "groq"))
HALF_A_THOUSANDTH: Final = Fraction(5, 10_000)


def _is_rounded(case: Case) -> bool:
    """Hosts that count in units of their own print dollars in thousandths: no kind differs by more
    than half of one.
    """
    return case.listed.provider in _THOUSANDTHS and all(
        abs(case.dollars(case.ours, kind) - case.dollars(case.theirs, kind)) <= HALF_A_THOUSANDTH
        for kind in case.counts.kinds
        if kind != "search"
    )


_DATE: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def _of_maker(case: Case) -> Mapping[str, Any] | None:
    """What the map has of the same model at OpenAI, for whose price Azure sells it."""
    if case.listed.provider != "azure":
        return None
    name = identify(case.name, "azure").model
    return case.models.get(name) or case.models.get(_DATE.sub("", name))


def _is_no_kind_of_its_maker(case: Case) -> bool:
    """The map has a price at Azure of what it has none of at OpenAI: a kind, or long prompts of a
    service tier. All that it has at both costs here what it does there.
    """
    maker = _of_maker(case)
    if maker is None:
        return False
    tiers: Mapping[str, Mapping[str, Any]] = maker.get("service_tiers", {})
    listed = tiers.get(case.mode, {}) if case.mode else maker
    long = [tier for tier in case.own.get("tiers", ()) if case.counts.prompt > tier["above"]]
    if (
        long
        and case.mode
        and not any(case.counts.prompt > tier["above"] for tier in listed.get("tiers", ()))
    ):
        return True
    known = [kind for kind in case.counts.kinds if kind in listed]
    return len(known) < len(case.counts.kinds) and all(
        _equal(case.dollars(case.ours, kind), case.dollars(case.theirs, kind)) for kind in known
    )


A_TENTH_MORE: Final = Fraction(11, 10)


def _is_regional(case: Case) -> bool:
    """Under a name without a zone the map has Azure's price of a region, a tenth above that of its
    global deployments; here it costs what the map has at OpenAI.
    """
    maker = _of_maker(case)
    return (
        maker is not None
        and _same(case, maker)
        and all(
            _equal(case.dollars(case.theirs, kind), case.dollars(case.ours, kind) * A_TENTH_MORE)
            for kind in case.counts.kinds
        )
    )


def _has_it_twice(case: Case) -> bool:
    """The map has the same model of the same host under another name too, with the prices that are
    charged here.
    """
    fields = case.models[case.name]
    of = identify(case.name, fields.get("provider"))
    return any(
        _same(case, table)
        for name, table in case.models.items()
        if name != case.name and identify(name, table.get("provider")) == of
    )


OF_THE_PREVIEW, OF_ALL = Fraction(25, 1000), Fraction(10, 1000)


def _is_the_preview(case: Case) -> bool:
    """OpenAI has two tools that search, and the usage does not tell which one it was: the map has
    the price of the one that is going away, whatever was used. Tokens cost the same.
    """
    return (
        case.listed.provider == "openai"
        and "search" in case.counts.kinds
        and case.dollars(case.ours, "search") / 1_000_000 == OF_ALL
        and case.dollars(case.theirs, "search") / 1_000_000 == OF_THE_PREVIEW
        and all(
            _equal(case.dollars(case.ours, kind), case.dollars(case.theirs, kind))
            for kind in case.counts.kinds
            if kind != "search"
        )
    )


def _searches_always(case: Case) -> bool:
    """Each request to the model searches, and costs what a search does, here as `request`; the map
    has it as the price of a search that is counted. Tokens cost the same.
    """
    here, there = (price.modes.get(case.mode, price.rates) for price in (case.ours, case.theirs))
    if "request" not in here or "search" in here or "search" not in there:
        return False
    request, search = here["request"][0], there["search"][0]
    return request * case.theirs.parts == search * case.ours.parts and all(
        _equal(case.dollars(case.ours, kind), case.dollars(case.theirs, kind))
        for kind in case.counts.kinds
        if kind != "search"
    )


OF_BOTH: Final[Mapping[str, Callable[[Case], bool]]] = {
    "global_price": _is_its_global_price,
    "has_it_twice": _has_it_twice,
    "no_kind_of_its_maker": _is_no_kind_of_its_maker,
    "regional": _is_regional,
    "searches_always": _searches_always,
    "preview_search": _is_the_preview,
    "euros": _is_in_euros,
    "rounded": _is_rounded,
}
"""Asked where both differ."""
