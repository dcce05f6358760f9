"""Counts what Redis has answered: operations by what became of them, their amounts, and how long
each took. No names of users or organisations.

It stands on the request path, so it is plain numbers in one loop over a call. What that costs is in
docs/decisions/0103-metrics-are-plain-numbers-that-a-scrape-reads.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final, get_args

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.exemplars import Exemplars
from taximeter.meter.wire.operations import Op, parse_reply

LATENCY_BUCKETS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
_DONE: Final = ord("1")
"""What no other code begins with."""
OPERATIONS: Final[tuple[Op, ...]] = get_args(Op)


class OperationFigures:
    """Of one kind of operation, since this process began. `done` counts those that were done as
    they were asked for, and `amount` adds up their millicredits: what reserves held, commits and
    charges charged, heartbeats reported. `others` counts the other answers by their code.
    `buckets[i]` counts the calls that were answered within `LATENCY_BUCKETS_S[i]`, and not within
    the one before, of those whose first operation was of this kind; the last those beyond all.
    """

    __slots__ = ("amount", "buckets", "done", "others", "seconds")

    def __init__(self) -> None:
        self.done = 0
        self.amount = 0
        self.others: Counter[Code] = Counter()
        self.buckets = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.seconds = 0.0


class Tally:
    """Figures of one Meter, on all of its shards. `exemplars` has an operation for each kind whose
    requests are traced.
    """

    __slots__ = ("by_operation", "exemplars")

    def __init__(self) -> None:
        self.by_operation: dict[str, OperationFigures] = {
            operation: OperationFigures() for operation in OPERATIONS
        }
        self.exemplars: dict[str, Exemplars] = {}

    def exemplify(self, operation: str, trace_id: int, seconds: float) -> None:
        """An operation of this trace took so long."""
        found = self.exemplars.get(operation)
        if found is None:
            found = self.exemplars[operation] = Exemplars(LATENCY_BUCKETS_S)
        found.keep(trace_id, seconds)

    def note(self, answered: list[Pending], replies: list[bytes], now: float) -> None:
        """A call is answered. Its first operation, which has waited longest, stands for the time of
        all. One that was asked again has taken as long as since it was asked first, and one that
        had been done when its first reply was lost is counted as done.
        """
        if not answered:
            return
        by_operation = self.by_operation
        for pending, reply in zip(answered, replies, strict=True):
            operation = pending.operation
            figures = by_operation[operation[0]]  # By place: names cost twice as much.
            if reply and reply[0] == _DONE:
                figures.done += 1
                figures.amount += operation[3]
            else:
                _note_other(figures, pending, reply)
        figures = by_operation[answered[0].operation.op]
        seconds = now - answered[0].queued_at
        figures.seconds += seconds
        figures.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1


def _note_other(figures: OperationFigures, pending: Pending, reply: bytes) -> None:
    try:
        found = parse_reply(reply)
    except (ValueError, KeyError, IndexError):
        return  # Whoever asked says what is wrong with it.
    if found.code is Code.REPLAYED and pending.uncertain:
        figures.done += 1
        figures.amount += pending.operation.amount
        return
    figures.others[found.code] += 1
    if found.code is Code.LATE:
        figures.amount += found.charged
