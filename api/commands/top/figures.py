"""Reads what processes tell on /metrics, and says what happened between two looks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]
_BUCKET: Final = "_bucket"


@dataclass(frozen=True, slots=True)
class Look:
    """What each process told, by its address, at one moment of this machine's clock; `away` says
    why the others told nothing.
    """

    at_s: float
    told: Mapping[str, Sequence[tuple[str, Labels, float]]]
    away: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, texts: Mapping[str, str | Exception]) -> Look:
        """Of the answers of /metrics, or why there was none."""
        told: dict[str, list[tuple[str, Labels, float]]] = {}
        away = {}
        for address, text in texts.items():
            try:
                if isinstance(text, Exception):
                    raise text
                told[address] = [
                    (sample.name, sample.labels, sample.value)
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                ]
            except Exception as error:
                away[address] = str(error) or type(error).__name__
        return cls(time.monotonic(), told, away)

    def each(self, name: str, by: str = "") -> Iterator[tuple[str, str, float]]:
        """The samples of that name: who told it, the label `by`, the value."""
        for address, samples in self.told.items():
            for found, labels, value in samples:
                if found == name:
                    yield address, labels.get(by, ""), value

    def whole(
        self, name: str, by: str = "", pick: Callable[[Iterable[float]], float] = max
    ) -> dict[str, float]:
        """What every process tells of the whole system: the greatest that one says, by a label."""
        found: dict[str, list[float]] = defaultdict(list)
        for _, label, value in self.each(name, by):
            found[label].append(value)
        return {label: pick(values) for label, values in found.items()}

    def total(self, name: str, by: str = "") -> dict[str, float]:
        """What each process tells of itself, added up, by a label."""
        found: dict[str, float] = defaultdict(float)
        for _, label, value in self.each(name, by):
            found[label] += value
        return dict(found)


@dataclass(frozen=True, slots=True)
class Between:
    """Two looks, and what happened in the time between them. A process that was not asked, or that
    began anew, before the second counts for nothing.
    """

    before: Look
    after: Look

    def rates(self, name: str, by: str = "") -> dict[str, float]:
        """Of a counter, a second, by a label; what did not happen is left out."""
        grown = self._grown(name, by)
        seconds = max(self.after.at_s - self.before.at_s, 1e-9)
        return {label: more / seconds for label, more in grown.items() if more > 0}

    def rate(self, name: str) -> float:
        """Of a counter, a second, whatever its labels are."""
        return sum(self.rates(name).values())

    def quantiles(
        self, name: str, by: str, shares: Sequence[float]
    ) -> dict[str, list[float | None]]:
        """Of a histogram, by a label: the bound below which that share of what happened lies; None
        beyond the last bound.
        """
        counts: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
        for address, samples in self.after.told.items():
            known = {
                _key(labels): value
                for found, labels, value in self.before.told.get(address, ())
                if found == name + _BUCKET
            }
            if address not in self.before.told:
                continue
            for found, labels, value in samples:
                if found == name + _BUCKET:
                    more = max(0.0, value - known.get(_key(labels), 0.0))
                    counts[labels.get(by, "")][float(labels["le"])] += more
        return {
            label: [_bound(found, share) for share in shares]
            for label, found in counts.items()
            if found.get(float("inf"))
        }

    def _grown(self, name: str, by: str) -> dict[str, float]:
        grown: dict[str, float] = defaultdict(float)
        for address, samples in self.after.told.items():
            if address not in self.before.told:
                continue
            known = {
                _key(labels): value
                for found, labels, value in self.before.told[address]
                if found == name
            }
            for found, labels, value in samples:
                if found == name:
                    grown[labels.get(by, "")] += max(0.0, value - known.get(_key(labels), 0.0))
        return grown


def _key(labels: Labels) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _bound(counts: Mapping[float, float], share: float) -> float | None:
    wanted = counts[float("inf")] * share
    for bound in sorted(counts):
        if counts[bound] >= wanted:
            return None if bound == float("inf") else bound
    return None
