"""Simulates one primary: gateways that send what waits in batches, and one thread that answers.

A process has a few connections (lanes) and sends over each one call at a time; what comes meanwhile
waits and goes together. A write has one script call for each shard that it is about. So calls grow
when the primary is busy, and each operation gets cheaper: `trip_s` says so in closed form,
`simulate` operation by operation.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Primary:
    """Who asks one primary, and what it takes. Times are seconds, rates operations a second."""

    rate: float
    processes: int
    lanes: int | None
    """Connections of each process; None for as many as there are calls."""
    batch_max: int
    shards: int
    call_s: float
    operation_s: float
    network_s: float

    @property
    def dearest_s(self) -> float:
        """What an operation takes that is alone in its call."""
        return self.call_s + self.operation_s

    @property
    def most(self) -> float:
        """Operations a second that are its limit, in the largest calls there may be."""
        return 1 / (self.operation_s + self.call_s / self.batch_max)


def calls_of(operations: float, shards: int) -> float:
    """Script calls of a write with so many operations: the shards that it is about."""
    if operations <= 1 or shards == 1:
        return 1.0
    missed: float = (1 - 1 / shards) ** operations
    return shards * (1 - missed)


def size_of(primary: Primary) -> float:
    """Operations of a write, in closed form: as many as come while it is away, and at least so many
    that its thread keeps up.
    """
    if primary.lanes is None:
        return 1.0
    low, high = 1.0, float(primary.batch_max * primary.shards)
    if _is_enough(primary, low):
        return low
    for _ in range(50):
        size = (low + high) / 2
        low, high = (low, size) if _is_enough(primary, size) else (size, high)
    return high


def _is_enough(primary: Primary, size: float) -> bool:
    """Whether writes of this size carry what comes, and leave the thread time for it."""
    assert primary.lanes is not None
    each_s = _each(primary, size)
    come = primary.rate * (primary.network_s + size * each_s)
    return come <= size * primary.processes * primary.lanes and primary.rate * each_s <= 1


def trip_s(primary: Primary) -> float:
    """Seconds for which a write is away: others go before it, as many as come at random (as
    Pollaczek and Khinchine say) and never more than there are lanes. Nearly every operation is
    answered in twice that: it has just missed a write, and goes by the next one.
    """
    size = size_of(primary)
    write_s = size * _each(primary, size)
    busy = min(1 - 1e-9, primary.rate * write_s / size)
    wait_s = busy * write_s / (2 * (1 - busy))
    if primary.lanes is not None:
        wait_s = min(wait_s, (primary.processes * primary.lanes - 1) * write_s)
    return primary.network_s + write_s + wait_s


def _each(primary: Primary, size: float) -> float:
    """Seconds of its thread for an operation in a write of this size."""
    calls = max(calls_of(size, primary.shards), size / primary.batch_max)
    return primary.operation_s + primary.call_s * calls / size


def keeps_up(primary: Primary, use: float, answer_s: float) -> bool:
    """Whether it stays within this share of what the fullest calls allow, and within this time for
    nearly every operation.
    """
    return primary.rate <= primary.most * use and 2 * trip_s(primary) <= answer_s


@dataclass(frozen=True, slots=True)
class Pause:
    """A primary that is away for a while. A reserve is tried for `patience_s`, anything else until
    it is answered.
    """

    start_s: float
    length_s: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the operations of a run, in seconds."""

    waits: list[float]
    """From when an operation came until it was answered, shortest first."""
    refused: int
    busy: float
    """The share of its thread that was busy."""
    size: float
    """Operations of a write."""
    late_until_s: float
    """When the last one was answered that had waited longer than a tenth of a pause."""

    def at(self, share: float) -> float:
        """The wait that this share of all operations stayed below."""
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))]


def simulate(primary: Primary, operations: int, seed: int, pause: Pause | None = None) -> Seen:
    """Let so many operations come at random (Poisson), after a tenth of them to warm up."""
    draw = random.Random(seed)
    waiting: list[deque[tuple[float, bool]]] = [deque() for _ in range(primary.processes)]
    # Without lanes there is always another connection.
    idle = [primary.lanes or operations] * primary.processes
    on_way: deque[tuple[float, int, list[tuple[float, bool]]]] = deque()
    one_way_s = primary.network_s / 2
    size_max = primary.batch_max * primary.shards if primary.lanes is not None else 1
    warm, free_at, busy_s, first_s = operations // 10, 0.0, 0.0, 0.0
    writes = sent = refused = 0
    waits: list[float] = []
    last = late_until = 0.0

    def send(now: float, process: int, taken: list[tuple[float, bool]]) -> None:
        nonlocal free_at, busy_s, writes, sent
        start = max(free_at, now + one_way_s)
        if pause is not None and pause.start_s <= start < pause.start_s + pause.length_s:
            start = pause.start_s + pause.length_s
        calls = len({int(draw.random() * primary.shards) for _ in taken}) if len(taken) > 1 else 1
        calls = max(calls, -(-len(taken) // primary.batch_max))
        took = calls * primary.call_s + len(taken) * primary.operation_s
        free_at = start + took
        if came > warm:
            busy_s += took
            writes += 1
            sent += len(taken)
        on_way.append((free_at + one_way_s, process, taken))

    def take(now: float, process: int) -> list[tuple[float, bool]]:
        nonlocal refused
        queue = waiting[process]
        taken: list[tuple[float, bool]] = []
        while queue and len(taken) < size_max:
            one = queue.popleft()
            if pause is not None and one[1] and now - one[0] > pause.patience_s:
                refused += 1
            else:
                taken.append(one)
        return taken

    came, arrival = 0, draw.expovariate(primary.rate)
    while came < operations or on_way:
        if on_way and (came >= operations or on_way[0][0] <= arrival):
            now, process, answered = on_way.popleft()
            for at, is_reserve in answered:
                waited = now - at
                if pause is not None and is_reserve and waited > pause.patience_s:
                    refused += 1
                elif at >= first_s and came > warm:
                    waits.append(waited)
                if pause is not None and waited > pause.length_s / 10:
                    late_until = now
            taken = take(now, process)
            if taken:
                send(now, process, taken)
            else:
                idle[process] += 1
            continue
        came += 1
        if came == warm:
            first_s = arrival
        process = int(draw.random() * primary.processes)
        operation = (arrival, draw.random() < 0.5)
        if idle[process]:
            idle[process] -= 1
            send(arrival, process, [operation])
        else:
            waiting[process].append(operation)
        last = arrival
        arrival += draw.expovariate(primary.rate)
    waits.sort()
    span = max(last - first_s, 1e-9)
    return Seen(waits, refused, busy_s / span, sent / max(writes, 1), late_until)
