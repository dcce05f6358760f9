"""Counts what an upstream was asked and how it answered. Plain numbers: a request costs a few
additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Literal, get_args

from taximeter.meter.wire.exemplars import Exemplars

Outcome = Literal[
    "answered", "refused", "limited", "refuses_us", "failed", "unreachable", "no_room"
]

UPSTREAM_BUCKETS_S: Final = (
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0),
)


class Durations:
    """A histogram: `buckets[i]` counts those within `UPSTREAM_BUCKETS_S[i]` and not within the one
    before; the last those beyond all. `trace_id` says which trace what is noted belongs to, or 0;
    None where nothing is traced.
    """

    __slots__ = ("buckets", "exemplars", "seconds", "trace_id")

    def __init__(self) -> None:
        self.trace_id: Callable[[], int] | None = None
        self.exemplars: Exemplars | None = None
        self.buckets = [0] * (len(UPSTREAM_BUCKETS_S) + 1)
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        """One more."""
        self.buckets[bisect_left(UPSTREAM_BUCKETS_S, seconds)] += 1
        self.seconds += seconds
        if self.trace_id is not None and (trace_id := self.trace_id()):
            if self.exemplars is None:
                self.exemplars = Exemplars(UPSTREAM_BUCKETS_S)
            self.exemplars.keep(trace_id, seconds)


class UpstreamTimes:
    """Of one upstream since this process began. `first_byte` is from the request to the head of its
    answer, `whole` to the end of reading it, also where the caller left.
    """

    __slots__ = ("first_byte", "outcomes", "whole")

    def __init__(self) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self.first_byte = Durations()
        self.whole = Durations()

    def trace_with(self, trace_id: Callable[[], int]) -> None:
        """Keep exemplars from now on."""
        self.first_byte.trace_id = self.whole.trace_id = trace_id


def outcome_of(status: int) -> Outcome:
    """What a status that an upstream answered comes to: `refused` is the caller's fault,
    `refuses_us` is about our key, `limited` its limit of requests.
    """
    if status == 200:
        return "answered"
    if status in (401, 402, 403):
        return "refuses_us"
    if status == 429:
        return "limited"
    return "failed" if status >= 500 else "refused"
