"""What a lease between regions would cost: credits of one account, handed out to processes abroad
in slices, spent there, and told home now and then. It is simulated, and not built.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean
from typing import Final

RUNS: Final = 100
_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leases from one account. Amounts are credits, rates requests a second."""

    sidecars: int
    slice: float
    rate: float
    cost: float
    flush_s: float

    @property
    def stranded_max(self) -> float:
        """Credits in slices of others when somebody is refused: never more."""
        return (self.sidecars - 1) * self.slice

    @property
    def lost_max(self) -> float:
        """Credits that all processes have spent since they told it last, when all die at once."""
        return self.rate * self.flush_s * self.cost

    @property
    def waits_for_home(self) -> float:
        """The share of requests that wait for a new slice."""
        return min(1.0, self.cost / self.slice)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen over RUNS lives of an account, in credits: the mean, and the worst."""

    stranded: float
    stranded_worst: float
    lost: float
    lost_worst: float


def simulate(lease: Lease, seed: int) -> Outcome:
    """Spend an account with two slices at home for each process until somebody is refused.
    Everybody dies once in each life, at a random moment, and what was not told is gone.
    """
    draw = random.Random(seed)
    # Small requests are taken together, a hundred steps a slice.
    step = max(lease.cost, lease.slice / _STEPS)
    stranded, lost = [], []
    for _ in range(RUNS):
        home = lease.sidecars * lease.slice * 2
        held = [draw.uniform(0, lease.slice) for _ in range(lease.sidecars)]
        while True:
            process = int(draw.random() * lease.sidecars)
            if held[process] < step:
                taken = min(lease.slice, home)
                home -= taken
                held[process] += taken
                if held[process] < step:
                    stranded.append(home + sum(held) - held[process])
                    break
            held[process] -= step
        lost.append(sum(_untold(lease, draw) for _ in range(lease.sidecars)))
    return Outcome(fmean(stranded), max(stranded), fmean(lost), max(lost))


def _untold(lease: Lease, draw: random.Random) -> float:
    """Credits that a process has spent since it told home, at a random moment between two times."""
    since_s = draw.uniform(0, lease.flush_s)
    spent, at = 0.0, draw.expovariate(lease.rate / lease.sidecars)
    while at < since_s:
        spent += lease.cost
        at += draw.expovariate(lease.rate / lease.sidecars)
    return spent
