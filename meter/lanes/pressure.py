"""Counts how long operations wait for a shard, and how many were refused and why.
No names of users or organisations.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, Literal

Limit = Literal["account", "organization", "queue"]

WAIT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True)
class Pressure:
    """Figures of one shard since this process began, or the number of shards changed. `waits[i]`
    counts operations that left the queue within `WAIT_BUCKETS_S[i]`, and not within the one before;
    the last those beyond all. `unconfirmed` counts what was done and not confirmed by disks or
    replicas in time, `missing` the calls that a server had acknowledged and has lost.
    """

    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS_S) + 1))
    waits_sum_s: float = 0.0
    unconfirmed: int = 0
    missing: int = 0
    refused: dict[Limit, int] = field(
        default_factory=lambda: {"account": 0, "organization": 0, "queue": 0}
    )

    def note_waits(self, longest_s: float, operations: int) -> None:
        """A call takes `operations` away, the first of which waited for `longest_s`: one look at
        the clock for all of them, so each is counted with the longest wait of its call.
        """
        self.waits[bisect_left(WAIT_BUCKETS_S, longest_s)] += operations
        self.waits_sum_s += longest_s * operations
