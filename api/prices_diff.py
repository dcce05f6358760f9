"""Compares the prices that are charged here with LiteLLM's price map, usage by usage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from taximeter.meter.pricing import KINDS, Price, Pricer, UnpricedModel
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.files import PriceFile, parse_price_file
from taximeter.meter.pricing.identity import Identity, identify
from taximeter.meter.pricing.litellm_map import read_map
from taximeter.meter.pricing.pricer import MILLICREDITS_PER_CREDIT
from taximeter.meter.pricing.rates import rate_of
from taximeter.meter.pricing.usage import Counts

TOLERANCE: Final = Decimal("0.0005")
"""Two prices that differ by less are one: maps keep prices as binary fractions, and some hosts
publish rounded ones.
"""
FINE: Final = Decimal(10**6)
TIER_TOKENS_MIN: Final = 100_000

# Counts by kind; those that are long are beyond every tier that a list has.
_USAGES: Final[Mapping[str, Mapping[str, int]]] = {
    "plain": {"input": 1_201, "output": 307},
    "prompt": {"input": 20_011},
    "cached": {"input": 1_009, "cache_read": 8_009, "output": 211},
    "written": {"input": 13, "cache_write": 4_099, "output": 101},
    "written_1h": {"input": 13, "cache_write_1h": 4_099, "output": 101},
    "reasoning": {"input": 503, "output": 101, "reasoning": 2_003},
    "heard": {"input": 101, "input_audio": 1_999, "output": 53},
    "spoken": {"input": 101, "output": 53, "output_audio": 1_499},
    "seen": {"input": 101, "input_image": 1_301, "output": 53},
    "drawn": {"input": 101, "output_image": 1_301},
    "long": {"input": 1_000_003, "output": 1_009},
    "long_cached": {"input": 11, "cache_read": 1_000_003, "output": 1_009},
}
_IN_A_TIER: Final = ("plain", "cached", "long")


@dataclass(slots=True)
class Difference:
    """What came of a comparison, in usages. `causes` are (host, kind and what differs) -> usages,
    with an example model each. `guessed`: usages that the map has no price of its own for, at
    which it falls back to another one. `only_map`: models that are refused here.
    """

    models: int = 0
    only_map: int = 0
    guessed: int = 0
    agreed: int = 0
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many usages both sides price."""
        return self.agreed + sum(self.causes.values())

    @property
    def agreement(self) -> float:
        """The part of them on which both agree."""
        return self.agreed / self.compared if self.compared else 1.0


def compare(pricer: Pricer, content: bytes) -> Difference:
    """Price generated usages of every model of LiteLLM's map that is sold by tokens, with the lists
    that `pricer` has and with the map. Raises PriceFileError for what is no such map.

    The pricer must make a dollar FINE credits, so that rounding hides nothing.
    """
    table = read_map(content).models
    theirs = parse_price_file(price_file_text(table, "map").encode(), "map.toml")
    found = Difference()
    for name, fields in table.items():
        if "input" not in fields or "output" not in fields:
            continue
        found.models += 1
        provider = str(fields.get("provider", "")) or None
        try:
            ours = pricer.price(name, provider=provider)
        except UnpricedModel:
            found.only_map += 1
            continue
        their_price = _price(theirs, name, identify(name, provider))
        for mode, counts in _usages(their_price):
            _judge(found, name, ours, their_price, mode, counts)
    return found


def _usages(price: Price) -> Iterator[tuple[str, Mapping[str, int]]]:
    for mode in ("", *price.modes):
        labels = _USAGES if not mode else _IN_A_TIER
        for label in labels:
            yield mode, _USAGES[label]


def _judge(
    found: Difference,
    name: str,
    ours: Price,
    theirs: Price,
    mode: str,
    counts: Mapping[str, int],
) -> None:
    listed = theirs.modes.get(mode, theirs.rates)
    # A price of 0 stands there for what the model does not do, as embeddings that write nothing.
    if not all(listed.get(kind, (0, ()))[0] for kind in counts):
        found.guessed += 1
        return
    kinds = Counts(counts, _sum(counts, "prompt"), _sum(counts, "output"))
    here, there = (one.cost_of(kinds, service_tier=mode or None) for one in (ours, theirs))
    if abs(here - there) <= max(here, there) * TOLERANCE:
        found.agreed += 1
        return
    cause = (theirs.provider, _cause(ours, theirs, mode, kinds))
    found.causes[cause] += 1
    found.examples.setdefault(cause, name)


def _sum(counts: Mapping[str, int], side: str) -> int:
    return sum(count for kind, count in counts.items() if KINDS[kind].side == side)


def _cause(ours: Price, theirs: Price, mode: str, kinds: Counts) -> str:
    """The first kind whose price differs, and how."""
    if mode and mode not in ours.modes:
        return f"service tier {mode}: only the map has it"
    here, there = (one.modes.get(mode, one.rates) for one in (ours, theirs))
    where = f" of service tier {mode}" if mode else ""
    for kind in kinds.kinds:
        (one, tiers), (other, other_tiers) = rate_of(kind, here), rate_of(kind, there)
        if kind not in here:
            return f"{kind}{where}: only the map has a price of its own"
        if abs(one * theirs.parts - other * ours.parts) > other * ours.parts * TOLERANCE:
            return f"{kind}{where}: another price"
        if kinds.prompt > TIER_TOKENS_MIN and bool(tiers) != bool(other_tiers):
            return f"{kind}{where}: a tier that only {'the list' if tiers else 'the map'} has"
    return f"long prompts{where}: another tier"


def _price(file: PriceFile, name: str, of: Identity) -> Price:
    entry = file.find(name, of)
    assert entry is not None, "every model of the map is in the file that was made of it"
    worth = FINE * MILLICREDITS_PER_CREDIT
    return Price.of(entry.sheet, worth, model=name, provider=of.provider, source="map", version="")
