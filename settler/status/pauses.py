"""Counts how long Python's collector of cyclic garbage has stopped this process, and what is out of
its sight: whether a late loop was late by that.
"""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from taximeter.meter.garbage import frozen_at_start

PAUSE_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_BOUNDS: Final = (*(f"{bound:g}" for bound in PAUSE_BUCKETS_S), "+Inf")
_GENERATIONS: Final = 3


class Pauses:
    """Collections of this process, by generation, while `watching`. Plain numbers: a collection may
    begin in the middle of anything, with any lock held.
    """

    def __init__(self) -> None:
        self._buckets = [[0] * len(_BOUNDS) for _ in range(_GENERATIONS)]
        self._seconds = [0.0] * _GENERATIONS
        self._began = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count until the block ends."""
        gc.callbacks.append(self._seen)
        try:
            yield
        finally:
            gc.callbacks.remove(self._seen)

    def families(self) -> Iterator[Metric]:
        """What a scrape reads."""
        pauses = HistogramMetricFamily(
            "taximeter_collection_seconds",
            "How long Python's collector of cyclic garbage stopped this process, by generation.",
            labels=("generation",),
        )
        for generation, buckets in enumerate(self._buckets):
            counts = zip(_BOUNDS, map(float, accumulate(buckets)), strict=True)
            pauses.add_metric((str(generation),), list(counts), self._seconds[generation])
        yield pauses
        yield GaugeMetricFamily(
            "taximeter_frozen_objects",
            "Objects of the start that the collector passes over; 0 until the process has started.",
            frozen_at_start(),
        )

    def _seen(self, phase: str, about: dict[str, Any]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
            return
        seconds = now - self._began
        generation = about["generation"]
        self._buckets[generation][bisect_left(PAUSE_BUCKETS_S, seconds)] += 1
        self._seconds[generation] += seconds
