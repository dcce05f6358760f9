"""Compares the prices that are charged here with LiteLLM's price map, usage by usage.

Usages are generated for every model that both price, of every kind of token, service tier, long
prompt and time of day that either of them has a price for. A usage is set aside, and neither agrees
nor differs, by the rules of `prices_set_aside`; docs/prices-diff.md has them and what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from taximeter.api.prices.set_aside import Case, rule_for
from taximeter.api.prices.table import figures_of
from taximeter.meter.pricing import KINDS, Price, Pricer, UnpricedModel
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.identity import identify
from taximeter.meter.pricing.litellm_map import parse_map, read_models
from taximeter.meter.pricing.price_file import PriceFile, parse_price_file
from taximeter.meter.pricing.published import Listed
from taximeter.meter.pricing.rates import WholeRate, rate_of
from taximeter.meter.pricing.sheet import Sheet
from taximeter.meter.pricing.usage_objects import Counts
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

TOLERANCE: Final = Decimal("0.0005")
"""Two prices that differ by less are one: maps keep prices as binary fractions, and some hosts
publish rounded ones.
"""
FINE: Final = Decimal(10**6)
AGREEMENT: Final = 0.995
"""What is wanted of the usages that both price."""
BEYOND: Final = 1_003
"""How many tokens a long prompt has beyond the start of a tier: hosts say "above" and "from"."""

USAGES: Final[Mapping[str, Mapping[str, int]]] = {
    "plain": {"input": 1_201, "output": 307},
    "prompt": {"input": 20_011},
    "cached": {"input": 1_009, "cache_read": 8_009, "output": 211},
    "written": {"input": 13, "cache_write": 4_099, "output": 101},
    "written_1h": {"input": 13, "cache_write_1h": 4_099, "output": 101},
    "written_12h": {"input": 13, "cache_write_12h": 4_099, "output": 101},
    "reasoning": {"input": 503, "output": 101, "reasoning": 2_003},
    "heard": {"input": 101, "input_audio": 1_999, "output": 53},
    "heard_cached": {"input": 101, "cache_read_audio": 1_999, "output": 53},
    "spoken": {"input": 101, "output": 53, "output_audio": 1_499},
    "seen": {"input": 101, "input_image": 1_301, "output": 53},
    "seen_cached": {"input": 101, "cache_read_image": 1_301, "output": 53},
    "drawn": {"input": 101, "output_image": 1_301},
    "searched": {"input": 1_009, "output": 307, "search": 1},
    "searched_often": {"input": 1_009, "output": 307, "search": 3},
}
_IN_A_TIER: Final = ("plain", "cached")
# Hours at which prices differ, for models that have such: a peak of a working day, the same hours
# of a weekend, and the night.
_HOURS: Final = (
    datetime(2026, 11, 25, 2, 30, tzinfo=UTC),
    datetime(2026, 11, 28, 2, 30, tzinfo=UTC),
    datetime(2026, 11, 25, 20, 0, tzinfo=UTC),
)


@dataclass(slots=True)
class Difference:
    """What came of a comparison, in usages. `causes` are (host, kind and what differs) -> usages,
    with an example model each. `set_aside`: by the name of a rule. `only_map`: models that are
    refused here. `table`: by model, the prices of both that were compared.
    """

    models: int = 0
    only_map: int = 0
    agreed: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    table: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many usages both sides price."""
        return self.agreed + sum(self.causes.values())

    @property
    def agreement(self) -> float:
        """The part of them on which both agree."""
        return self.agreed / self.compared if self.compared else 1.0


def compare(pricer: Pricer, content: bytes, at: datetime | None = None) -> Difference:
    """Price generated usages of every model of LiteLLM's map that is sold by tokens, with the lists
    that `pricer` has and with the map, at a moment (now by default). Raises PriceFileError for what
    is no such map.
    """
    at = at or datetime.now(UTC)
    document = parse_map(content)
    found = Difference()
    own = read_models(document, at=at).models
    theirs = _file(own)
    by_hour = {name: fields for name, fields in document.items() if "off_peak_pricing" in fields}
    at_hours = [(hour, _file(read_models(by_hour, at=hour).models)) for hour in _HOURS]
    for name, fields in own.items():
        if "input" not in fields or "output" not in fields:
            continue
        found.models += 1
        provider = str(fields.get("provider", "")) or None
        try:
            _, listed = pricer.sheet(name, provider=provider)
        except UnpricedModel:
            found.only_map += 1
            continue
        moments = at_hours if name in by_hour else [(at, theirs)]
        for moment, file in moments:
            entry = file.find(name, identify(name, provider))
            assert entry is not None, "every model of the map is in the file that was made of it"
            pair = (_at(listed, moment), entry.sheet)
            prices = [_price(name, listed, sheet) for sheet in pair]
            found.table[name] = {
                side: figures_of(sheet) for side, sheet in zip(("list", "map"), pair, strict=True)
            }
            for mode, counts in _usages(*pair):
                case = Case(name, document, own, mode, counts, moment, listed, *prices)
                _judge(found, case)
    return found


def _usages(*sheets: Sheet) -> Iterator[tuple[str, Counts]]:
    """The usages that are worth a look: each service tier, and beyond each start of a tier."""
    for mode in sorted({"", *(mode for sheet in sheets for mode in sheet.modes)}):
        for label in USAGES if not mode else _IN_A_TIER:
            yield mode, _counts(USAGES[label])
        starts = {
            start
            for sheet in sheets
            for rate in sheet.modes.get(mode, sheet.rates).values()
            for start, _ in rate.tiers
        }
        last = 0
        for start in sorted(starts):
            if start - last < BEYOND:  # "From 200,000 on" and "above 199,999" are the same.
                continue
            last = start
            yield mode, _counts({"input": start + BEYOND, "output": 1_009})
            yield mode, _counts({"input": BEYOND, "cache_read": start, "output": 1_009})


def _counts(kinds: Mapping[str, int]) -> Counts:
    prompt, output = (
        sum(count for kind, count in kinds.items() if KINDS[kind].side == side)
        for side in ("prompt", "output")
    )
    return Counts(kinds, prompt, output)


def _judge(found: Difference, case: Case) -> None:
    rule = rule_for(case)
    if rule is None:
        here, there = (
            price.cost_of(case.counts, service_tier=case.mode or None)
            for price in (case.ours, case.theirs)
        )
        if is_the_same(here, there):
            found.agreed += 1
            return
        rule = rule_for(case, differs=True)
    if rule is not None:
        found.set_aside[rule] += 1
        return
    cause = (case.listed.provider, _cause(case))
    found.causes[cause] += 1
    found.examples.setdefault(cause, case.name)


def is_the_same(here: int, there: int | Decimal) -> bool:
    """Whether two amounts are one."""
    one, other = Decimal(here), Decimal(there)
    return abs(one - other) <= max(one, other) * TOLERANCE


def _cause(case: Case) -> str:
    """The kind that makes the largest difference, and how."""
    mode, counts = case.mode, case.counts
    ours, theirs = case.ours, case.theirs
    if mode and mode not in ours.modes:
        return f"service tier {mode}: only the map has it"
    if mode and mode not in theirs.modes:
        return f"service tier {mode}: only the list has it"
    where = f" of service tier {mode}" if mode else ""
    here, there = (one.modes.get(mode, one.rates) for one in (ours, theirs))

    def gap(kind: str) -> Decimal:
        one, other = _rate(kind, here, counts.prompt), _rate(kind, there, counts.prompt)
        return abs(Decimal(one * theirs.parts - other * ours.parts)) * counts.kinds[kind]

    kind = max(counts.kinds, key=gap)
    if kind not in here:
        return f"{kind}{where}: only the map has a price of its own"
    if kind not in there:
        return f"{kind}{where}: only the list has a price of its own"
    if bool(here[kind][1]) != bool(there[kind][1]) and not _differs(
        kind, here, there, ours, theirs
    ):
        return f"{kind}{where}: a tier that only {'the list' if here[kind][1] else 'the map'} has"
    return f"{kind}{where}: another price"


def _differs(
    kind: str,
    here: Mapping[str, WholeRate],
    there: Mapping[str, WholeRate],
    ours: Price,
    theirs: Price,
) -> bool:
    one, other = here[kind][0] * theirs.parts, there[kind][0] * ours.parts
    return abs(one - other) > max(one, other) * TOLERANCE


def _rate(kind: str, rates: Mapping[str, WholeRate], prompt: int) -> int:
    price, tiers = rate_of(kind, rates)
    for start, dearer in tiers:
        if prompt > start:
            price = dearer
    return price


def _file(models: Mapping[str, Mapping[str, Any]]) -> PriceFile:
    return parse_price_file(price_file_text(models, "map").encode(), "map.toml")


def _at(listed: Listed, moment: datetime) -> Sheet:
    return listed.sheets[listed.place(moment)][1]


def _price(name: str, listed: Listed, sheet: Sheet) -> Price:
    """With a dollar worth FINE credits, so that rounding hides nothing."""
    worth = FINE * MILLICREDITS_PER_CREDIT
    return Price.of(sheet, worth, model=name, provider=listed.provider, source="", version="")
