"""Says whether a measurement may be judged: what others took of the machine meanwhile, and what
fixed pieces of work took before and after it. Pure: `bench.machine` takes the readings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

Gauge = Literal["python", "redis", "disk"]
"""A piece of work that is always the same: a loop in Python, a lone script call, a synced write."""

REFERENCE: Final[Mapping[Gauge, float]] = {"python": 440.0, "redis": 27.0, "disk": 430.0}
"""Microseconds, the lowest that was seen of each on the machine that targets in seconds are for:
two cores of an AMD EPYC, Python 3.11, on 2026-11-30.
"""

OTHERS_MAX: Final = 0.05
"""Most that others may take of all cores; 2 cores with a neighbour on one of them are at 0.5."""
STOLEN_MAX: Final = 0.02
"""The same for what the hypervisor gave to another machine."""
STALLED_MAX: Final[Mapping[str, float]] = {"cpu": 0.10, "io": 0.10, "memory": 0.02}
"""Most of the time that somebody may wait for each while the bench itself rests."""
SWING_MAX: Final[Mapping[Gauge, float]] = {"python": 1.25, "redis": 1.5, "disk": 3.0}
"""How many times as long the same work may take after a benchmark as before it, or before as
after.
"""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the machine has counted since its start, in seconds of processor time over all cores."""

    at_s: float
    busy_s: float
    stolen_s: float
    own_s: float
    """Processor time of the bench and of all that it has started."""
    kernel_s: Mapping[int, float] = field(default_factory=dict)
    """That of each of the kernel's threads, which write what we wrote. They come and go."""


@dataclass(frozen=True, slots=True)
class Look:
    """The machine at one moment at which the bench does nothing."""

    counters: Counters | None
    """None where the system does not tell."""
    stalled: Mapping[str, float]
    """By resource: the share of a short rest in which somebody waited for it."""
    calibration: Mapping[Gauge, float]
    """Microseconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time between two looks."""

    before: Look
    after: Look
    cores: int

    @property
    def others(self) -> float | None:
        """Cores that others took; None when nobody counted, or too little to count passed."""
        first, last = self.before.counters, self.after.counters
        if first is None or last is None or last.at_s <= first.at_s:
            return None
        busy = (last.busy_s - first.busy_s) - (last.own_s - first.own_s)
        for thread, took in last.kernel_s.items():
            busy -= max(0.0, took - first.kernel_s.get(thread, 0.0))
        return max(0.0, busy) / (last.at_s - first.at_s)

    @property
    def stolen(self) -> float | None:
        """Cores that the hypervisor took."""
        first, last = self.before.counters, self.after.counters
        if first is None or last is None or last.at_s <= first.at_s:
            return None
        return (last.stolen_s - first.stolen_s) / (last.at_s - first.at_s)

    @property
    def stalled(self) -> dict[str, float]:
        """The worse of the two rests, by resource."""
        names = self.before.stalled.keys() | self.after.stalled.keys()
        looks = (self.before.stalled, self.after.stalled)
        return {name: max(look.get(name, 0.0) for look in looks) for name in sorted(names)}

    @property
    def calibration(self) -> dict[Gauge, float]:
        """The mean of both looks."""
        both = self.before.calibration.keys() & self.after.calibration.keys()
        return {
            gauge: (self.before.calibration[gauge] + self.after.calibration[gauge]) / 2
            for gauge in sorted(both)
        }

    @property
    def busy(self) -> tuple[str, ...]:
        """Why nothing that was measured in between is judged; empty when it may be."""
        found = []
        if self.others is None or self.stolen is None:
            found.append("the load of others cannot be read here")
        else:
            if self.others > OTHERS_MAX * self.cores:
                found.append(f"others took {self.others:.2f} of {self.cores} cores")
            if self.stolen > STOLEN_MAX * self.cores:
                found.append(f"the hypervisor took {self.stolen:.2f} of {self.cores} cores")
        for name, share in self.stalled.items():
            if share > STALLED_MAX.get(name, 1.0):
                found.append(f"others waited for {name} {share:.0%} of the time")
        for gauge, most in SWING_MAX.items():
            first = self.before.calibration.get(gauge)
            last = self.after.calibration.get(gauge)
            if first and last and max(first / last, last / first) > most:
                found.append(f"{gauge} calibration went from {first:,.0f} to {last:,.0f} µs")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: cores, shares and microseconds."""
        return {
            "others": None if self.others is None else round(self.others, 3),
            "stolen": None if self.stolen is None else round(self.stolen, 3),
            "stalled": {name: round(share, 3) for name, share in self.stalled.items()},
            "calibration": {gauge: round(took, 1) for gauge, took in self.calibration.items()},
            "busy": list(self.busy),
        }


def whole(spans: Mapping[str, Span]) -> dict[str, Any]:
    """The same of a whole run: its worst load, its middle calibration, all reasons by benchmark."""
    found = [span.as_dict() for span in spans.values()]
    gauges = sorted({gauge for one in found for gauge in one["calibration"]})
    resources = sorted({name for one in found for name in one["stalled"]})
    return {
        "others": _most(one["others"] for one in found),
        "stolen": _most(one["stolen"] for one in found),
        "stalled": {name: _most(one["stalled"].get(name) for one in found) for name in resources},
        "calibration": {
            gauge: median(one["calibration"][gauge] for one in found if gauge in one["calibration"])
            for gauge in gauges
        },
        "busy": {name: list(span.busy) for name, span in spans.items() if span.busy},
    }


def _most(numbers: Any) -> float | None:
    return max((number for number in numbers if number is not None), default=None)
