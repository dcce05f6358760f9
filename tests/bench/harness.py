"""Rounds in turn, medians and verdicts: how a figure comes about, whatever it is a figure of."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Once = Callable[[], Awaitable[None]]
Side = Callable[[float], Awaitable[float]]
"""One round of one side: takes its seconds, returns what is compared, such as operations a second.
"""

ROUNDS_MAX = 50
TICK_S = 0.001
RUNNING_MAX = 20_000
COLLAPSED_AT = 2.0


class BenchFailed(RuntimeError):
    """A measurement is worth nothing: a side failed, or did other work than it should have."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach, and whether that is about its ratio or about its own value."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "value"] = "ratio"

    def met_by(self, figure: float, slack: float = 1.0) -> bool:
        """Whether `figure` is good enough; `slack` 2 asks for half of the target only."""
        if self.kind == "at least":
            return figure >= self.bound / slack
        return figure <= self.bound * slack


@dataclass(frozen=True, slots=True)
class Spread:
    """The rounds of one side in the order in which they ran."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Round by round, `ours` and `baseline` ran one after the other, so the ratio is the median of the
    ratios of each pair and not the ratio of two medians: what the machine does besides then hits
    both. A figure without a target is there for the reader.
    """

    name: str
    title: str
    unit: str
    ours: Spread
    baseline: Spread | None = None
    baseline_title: str = ""
    target: Target | None = None
    note: str = ""
    number: int | None = None
    """The target of the list in docs/performance.md that it belongs to."""

    @property
    def ratio(self) -> Spread | None:
        """Ours over the baseline, round by round."""
        if self.baseline is None:
            return None
        pairs = zip(self.ours.rounds, self.baseline.rounds, strict=True)
        return Spread(tuple(ours / other for ours, other in pairs))

    @property
    def judged(self) -> float:
        """The number that the target is about."""
        if self.target is not None and self.target.of == "ratio" and self.ratio is not None:
            return self.ratio.median
        return self.ours.median

    @property
    def verdict(self) -> Literal["met", "missed", "-"]:
        if self.target is None:
            return "-"
        return "met" if self.target.met_by(self.judged) else "missed"

    @property
    def collapsed(self) -> bool:
        """Not even half of the target: too far off to be the noise of a machine."""
        return self.target is not None and not self.target.met_by(self.judged, COLLAPSED_AT)


def value(*rounds: float) -> Spread:
    """A figure that was measured as often as it has numbers."""
    return Spread(rounds)


async def take_turns(
    sides: Mapping[str, Side], *, rounds: int, seconds: float, warm_up_s: float
) -> dict[str, Spread]:
    """Run every side `rounds` times in turn (a, b, a, b ...) after a short round of each that does
    not count.
    """
    if not 1 <= rounds <= ROUNDS_MAX:
        raise ValueError(f"rounds must be 1 to {ROUNDS_MAX}")
    if warm_up_s:
        for side in sides.values():
            await side(warm_up_s)
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            gc.collect()
            seen[name].append(await side(seconds))
    return {name: Spread(tuple(numbers)) for name, numbers in seen.items()}


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a loop: how often it was done in all, and in the seconds that count."""

    total: int
    counted: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.counted / self.seconds


async def closed_loop(once: Once, *, callers: int, seconds: float) -> Done:
    """Let `callers` repeat `once` for that long, each waiting for its own answer.

    Each has done it once before the time begins, so that no connection is opened in it.
    """
    await asyncio.gather(*(once() for _ in range(callers)))
    done = 0
    clock = time.perf_counter
    end = clock() + seconds

    async def caller() -> None:
        nonlocal done
        while clock() < end:
            await once()
            done += 1

    started = clock()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return Done(done + callers, done, clock() - started)


async def open_loop(
    launch: Callable[[float], Coroutine[Any, Any, object]], *, per_second: float, seconds: float
) -> int:
    """Start `launch` at a fixed rate, whatever became of those before it. Returns how many ended.

    Each gets the moment from which its time counts: when it was due, or up to a tick later, which
    is what a timer of the loop is off by anyway; a loop that is late by more makes it slow. Raises
    what a launch raises, and BenchFailed when they pile up.
    """
    clock = time.perf_counter
    running: set[asyncio.Task[object]] = set()
    failures: list[BaseException] = []

    def ended(task: asyncio.Future[object]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    launched, tick, began = 0, 0, clock()
    while tick * TICK_S < seconds and not failures:
        tick += 1
        due = began + tick * TICK_S
        await asyncio.sleep(max(0.0, due - clock()))
        counted_from = min(clock(), due + TICK_S)
        wanted = int(tick * TICK_S * per_second)
        for _ in range(wanted - launched):
            task = asyncio.create_task(launch(counted_from))
            running.add(task)
            task.add_done_callback(ended)
        launched = wanted
        if len(running) > RUNNING_MAX:
            failures.append(BenchFailed(f"{per_second:,.0f}/s is more than it can do"))
    if failures:
        for task in running:
            task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if failures:
        raise failures[0]
    return launched


def percentile(numbers: Sequence[float], part: float) -> float:
    """The number that `part` (0 to 1) of them do not exceed. Raises BenchFailed when there are
    none.
    """
    if not numbers:
        raise BenchFailed("nothing was measured")
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
