"""What the callers of one primary notice while it is away, and what is gone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from growth.plan import METER
from growth.primary import Pause, Primary, simulate

_AFTER: float = 3.0
"""How many times its length is looked at, with the pause."""


@dataclass(frozen=True, slots=True)
class Failover:
    """One failover, by what callers notice."""

    refused: float
    """Reserves that end as 503, a second of the primary's rate."""
    longest_s: float
    drained_s: float
    """From when it is back until what waited is done."""
    lost: float
    """Operations acknowledged that the promoted replica lacks."""


def refused_for_s(pause_s: float) -> float:
    """Seconds of arriving reserves that are refused: those that would have to wait too long."""
    return max(0.0, pause_s - METER.take_timeout_s)


def drained_after_s(pause_s: float, busy: float) -> float:
    """Seconds until what waited is done, when every operation waits and costs what it did before:
    the pause, times what is busy over what is free.
    """
    return pause_s * busy / (1 - busy)


def fail_over(primary: Primary, pause_s: float, lag_s: float, seed: int, most: int) -> Failover:
    """Simulate it. A primary with a high rate is looked at with fewer gateways of the same rate
    each, so that at most `most` operations are made.
    """
    wanted = primary.rate * pause_s * _AFTER
    part = min(1.0, most / wanted)
    small = replace(
        primary,
        rate=primary.rate * part,
        processes=max(1, round(primary.processes * part)),
        call_s=primary.call_s / part,
        operation_s=primary.operation_s / part,
    )
    pause = Pause(pause_s / 2, pause_s, METER.take_timeout_s)
    seen = simulate(small, int(min(wanted, most)), seed, pause)
    ended = pause.start_s + pause_s
    return Failover(
        refused=seen.refused / part,
        longest_s=seen.waits[-1],
        drained_s=max(0.0, seen.late_until_s - ended),
        lost=primary.rate * lag_s,
    )
