"""Counts how often something took how long, in steps of an eighth, from a microsecond on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

STEPS: Final = 20
"""Steps of a decade: each is 12 % longer than the one before."""
FIRST_S: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by step. A step goes from `starts_ms` of its number to that of the next."""

    title: str
    counts: dict[int, int]

    @classmethod
    def of(cls, title: str, seconds: Iterable[float]) -> Histogram:
        """Count all of them; what is below a microsecond is in the first step."""
        steps = Counter(
            max(0, math.floor(STEPS * math.log10(max(took, FIRST_S) / FIRST_S))) for took in seconds
        )
        return cls(title, dict(sorted(steps.items())))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the lower end of each step that has any, in milliseconds, and its count."""
        return {
            "title": self.title,
            "counts": {f"{starts_ms(step):.4g}": count for step, count in self.counts.items()},
        }

    def beyond(self) -> list[tuple[float, float]]:
        """(milliseconds, share of all that took at least so long), by step."""
        left, found = self.total, []
        for step, count in self.counts.items():
            found.append((starts_ms(step), left / self.total))
            left -= count
        return found


def starts_ms(step: int) -> float:
    """The lower end of a step."""
    power: float = 10 ** (step / STEPS)
    return FIRST_S * power * 1e3
