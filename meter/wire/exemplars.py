"""Keeps for each bucket of a histogram the last observation that was traced, for /metrics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class Exemplar(NamedTuple):
    """One observation, when it was made (seconds since 1970), and its trace."""

    trace_id: int
    seconds: float
    at: float


class Exemplars:
    """Of one histogram whose finite bounds are `bounds`: at most one for each bucket."""

    __slots__ = ("_bounds", "_kept")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._kept: dict[int, Exemplar] = {}

    def keep(self, trace_id: int, seconds: float) -> None:
        """An observation that is part of this trace."""
        place = bisect_left(self._bounds, seconds)
        self._kept[place] = Exemplar(trace_id, seconds, time.time())

    def of(self, place: int) -> Exemplar | None:
        """That of a bucket, by its place among the bounds; the last is the one beyond all."""
        return self._kept.get(place)
