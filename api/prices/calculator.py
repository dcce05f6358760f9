"""Compares what is charged here with what genai-prices works out itself, usage by usage.

Its list says also in which shapes each host tells a usage, as paths into the answer. Usage objects
are made by these for every model of the list, and both sides read and price the same object: so how
usage is read is compared too, and not only what it costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from taximeter.api.prices.diff import BEYOND, FINE, USAGES, Difference, is_the_same
from taximeter.meter.pricing import (
    KINDS,
    Price,
    Pricer,
    UnknownUsage,
    UnpricedModel,
    checked_counts,
)
from taximeter.meter.pricing.published import Listed, mode_of, sheet_of
from taximeter.meter.pricing.sheet import Sheet
from taximeter.meter.pricing.usage_objects import Counts
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider, UsageExtractor

_WORTH: Final = FINE * MILLICREDITS_PER_CREDIT
"""Millicredits of a dollar."""
# Our kinds -> what the package counts them as; the last is what no other kind is.
_COUNTED_AS: Final[Mapping[str, Sequence[str]]] = {
    "input": ("input_tokens", "input_text_tokens"),
    "cache_read": (
        *("input_tokens", "input_text_tokens", "cache_text_read_tokens"),
        "cache_read_tokens",
    ),
    "cache_write": ("input_tokens", "cache_write_5m_tokens", "cache_write_tokens"),
    "cache_write_1h": ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    "input_audio": ("input_tokens", "input_audio_tokens"),
    "cache_read_audio": (
        *("input_tokens", "input_audio_tokens", "cache_read_tokens"),
        "cache_audio_read_tokens",
    ),
    "input_image": ("input_tokens", "input_image_tokens"),
    "cache_read_image": (
        *("input_tokens", "input_image_tokens", "cache_read_tokens"),
        "cache_image_read_tokens",
    ),
    "output": ("output_tokens", "output_text_tokens"),
    "reasoning": ("output_tokens", "output_reasoning_tokens"),
    "output_audio": ("output_tokens", "output_audio_tokens"),
    "output_image": ("output_tokens", "output_image_tokens"),
    "citation": ("output_tokens", "output_citation_tokens"),
    "search": ("web_searches",),
    "audio_hour": ("audio_seconds",),
}
_TOTALS: Final = ("input_tokens", "output_tokens")
_PLAIN: Final = ("input", "output")
_CITED: Final = {"input": 101, "output": 307, "reasoning": 2_003, "citation": 1_301, "search": 3}
_TIMED: Final = {"audio_hour": 133}
_IN_A_MODE: Final = ("plain", "cached")


def compare_with_package(
    pricer: Pricer, at: datetime | None = None, *, every: int = 1
) -> Difference:
    """Price usage objects of every model of the installed list, or of one in `every`, with the
    lists that `pricer` has and with the package's own calculator, at a moment (now by default).
    Raises ModuleNotFoundError without the package.
    """
    from genai_prices import data_snapshot

    at = at or datetime.now(UTC)
    found = Difference()
    for seller in data_snapshot.get_snapshot().providers:
        for model in seller.models[::every]:
            found.models += 1
            try:
                _, listed = pricer.sheet(model.id, provider=seller.id)
            except UnpricedModel:
                found.only_map += 1
                continue
            _Comparison(found, seller, model, listed, at).run()
    return found


class _Comparison:
    """Of one model."""

    def __init__(
        self, found: Difference, seller: Provider, model: ModelInfo, listed: Listed, at: datetime
    ) -> None:
        self._found = found
        self._seller = seller
        self._model = model
        self._listed = listed
        self._at = at
        self._ours = self._price(listed.sheets[listed.place(at)][1])
        own = sheet_of(model, model.get_prices(at))
        self._as_listed = self._price(own)
        starts = {start for rate in own.rates.values() for start, _ in rate.tiers}
        self._usages: dict[str, Mapping[str, int]] = {**USAGES, "timed": _TIMED}
        if "citation" in own.rates:
            self._usages["cited"] = _CITED
        for start in starts:
            self._usages[f"above {start}"] = {"input": start + BEYOND, "output": 1_009}
            self._usages[f"cached above {start}"] = {
                **{"input": BEYOND, "cache_read": start, "output": 1_009}
            }
        self._modes = {
            mode: variant.when
            for variant in model.price_variants or ()
            if (mode := mode_of(variant.when)) is not None
        }

    def run(self) -> None:
        """Judge every usage in every shape of the host."""
        for shape in self._seller.extractors or ():
            for label, counts in self._usages.items():
                answer = answer_of(shape, counts)
                if answer is None:
                    continue
                self._judge(shape, label, answer, "", None)
                for mode, when in self._modes.items() if label in _IN_A_MODE else ():
                    self._judge(shape, label, answer, mode, when)

    def _judge(
        self,
        shape: UsageExtractor,
        label: str,
        answer: Mapping[str, Any],
        mode: str,
        when: Mapping[str, str] | None,
    ) -> None:
        usage = _usage_of(shape, answer)
        try:
            counts = checked_counts(usage)
        except UnknownUsage:
            self._found.set_aside["refused"] += 1
            return
        try:
            read = shape.extract(answer)[1]
            worked_out = self._model.calc_price(
                read, self._seller, genai_request_timestamp=self._at, price_context=when
            ).total_price
        except ValueError:  # It prices a kind that this shape does not tell.
            self._found.set_aside["not_worked_out"] += 1
            return
        theirs = worked_out * _WORTH
        ours, as_listed = (
            one.cost_of(counts, service_tier=mode or None) for one in (self._ours, self._as_listed)
        )
        if is_the_same(ours, theirs):
            self._found.agreed += 1
        elif is_the_same(as_listed, theirs):
            # Read alike, and the list alone costs the same: it is what is laid over the list.
            self._found.set_aside["laid_over"] += 1
        elif self._is_free_output(counts, mode, theirs):
            self._found.set_aside["free_output"] += 1
        else:
            where = f" of service tier {mode}" if mode else ""
            cause = (self._seller.id, f"{label}{where}, told as {shape.api_flavor}")
            self._found.causes[cause] += 1
            self._found.examples.setdefault(cause, self._model.id)

    def _is_free_output(self, counts: Counts, mode: str, theirs: Decimal) -> bool:
        """The list has no price of output, which is then free there: the prompt costs the same."""
        if any(KINDS[kind].side == "output" for kind in self._as_listed.rates):
            return False
        prompt = {one: count for one, count in counts.kinds.items() if KINDS[one].side != "output"}
        without = Counts(prompt, counts.prompt, 0)
        return any(
            is_the_same(one.cost_of(without, service_tier=mode or None), theirs)
            for one in (self._ours, self._as_listed)
        )

    def _price(self, sheet: Sheet) -> Price:
        return Price.of(
            sheet,
            _WORTH,
            model=self._model.id,
            provider=self._listed.provider,
            source="",
            version="",
        )


def answer_of(shape: UsageExtractor, counts: Mapping[str, int]) -> dict[str, Any] | None:
    """An answer of a host that tells these counts in this shape; None where it has no place for one
    of them.
    """
    amounts: Counter[str] = Counter()
    for kind, count in counts.items():
        amounts.update(dict.fromkeys(_COUNTED_AS.get(kind, (kind,)), count))
    places = _places(shape)
    told = {name for names in places.values() for name in names[1]}
    for kind in counts:
        narrowest = _COUNTED_AS.get(kind, (kind,))[0 if kind in _PLAIN else -1]
        if narrowest not in told:
            return None
    values = _values(places, amounts)
    usage: dict[str, Any] = {}
    for key, (path, _) in places.items():
        if values[key] or len(path) == 1:
            _put(usage, path, values[key])
    if "prompt_tokens" in usage and "citation" not in counts:
        # Perplexity's total is without what it thought and cited.
        usage["total_tokens"] = amounts["input_tokens"] + amounts["output_tokens"]
    return _inside(shape.root, usage)


_Places = dict[str, tuple[Sequence[Any], list[str]]]


def _places(shape: UsageExtractor) -> _Places:
    """By path: the path, and all that stands there. What stands at several is told at the first."""
    places: _Places = {}
    told: set[str] = set()
    for mapping in shape.mappings:
        path = [mapping.path] if isinstance(mapping.path, str) else list(mapping.path)
        place = places.setdefault(repr(path), (path, []))
        if mapping.dest in _TOTALS or mapping.dest not in told:
            place[1].append(mapping.dest)
        told.add(mapping.dest)
    return places


def _values(places: _Places, amounts: Mapping[str, int]) -> dict[str, int]:
    """What is written at each: its narrowest count; a total alone is what no other adds to it."""
    values = {
        key: next((amounts.get(name, 0) for name in names if name not in _TOTALS), 0)
        for key, (_, names) in places.items()
    }
    for total in _TOTALS:
        alone = next((key for key, (_, names) in places.items() if names == [total]), None)
        if alone is not None:
            beside = sum(values[key] for key, (_, names) in places.items() if total in names)
            values[alone] = amounts.get(total, 0) - beside
    return values


def _put(usage: dict[str, Any], path: Sequence[Any], value: int) -> None:
    *steps, last = path
    here: Any = usage
    for place, step in enumerate(steps):
        if isinstance(step, str):
            is_list = place + 1 < len(steps) and not isinstance(steps[place + 1], str)
            here = here.setdefault(step, [] if is_list else {})
        else:
            entry = {step.field: step.match.equals}
            here.append(entry)
            here = entry
    here[last] = value


def _inside(root: Any, usage: dict[str, Any]) -> dict[str, Any]:
    answer: Any = usage
    for step in reversed([root] if isinstance(root, str) else list(root)):
        answer = {step: answer}
    found: dict[str, Any] = answer
    return found


def _usage_of(shape: UsageExtractor, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = answer
    for step in [shape.root] if isinstance(shape.root, str) else list(shape.root):
        found = found[step]
    usage: Mapping[str, Any] = found
    return usage
