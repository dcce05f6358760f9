"""Rounds in turn, medians and verdicts: how a figure comes about, whatever it is a figure of."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bench.conditions import REFERENCE, Gauge
from bench.histogram import Histogram
from bench.ticks import Ticks

Once = Callable[[], Awaitable[None]]
Side = Callable[[float], Awaitable[float]]
"""One round of one side: takes its seconds, returns what is compared, such as operations a second.
"""

ROUNDS_MAX = 50
TICK_S = 0.001
RUNNING_MAX = 20_000
RARE_S = 60.0
COLLAPSED_AT = 2.0
TIMED: Final = frozenset({"s", "ms", "µs", "/s"})
"""Units of what a faster machine does better."""
INSTRUCTIONS: Final = "k instructions"
COUNTED: Final = frozenset({"B", INSTRUCTIONS})
"""Units of what is as much however busy a machine is."""


class BenchFailed(RuntimeError):
    """A measurement is worth nothing: a side failed, or did other work than it should have."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach, and whether that is about its ratio or about its own value."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "value"] = "ratio"
    gauge: Gauge | None = None
    """With it, `bound` is a time on the machine of REFERENCE, hence a multiple of what this piece
    of work takes: it is longer where that takes longer.
    """

    def here(self, calibration: Mapping[Gauge, float]) -> float | None:
        """The bound on the machine of this run; None when its piece of work was not timed."""
        if self.gauge is None:
            return self.bound
        took = calibration.get(self.gauge)
        return None if took is None else self.bound * took / REFERENCE[self.gauge]

    def met_by(self, figure: float, bound: float, slack: float = 1.0) -> bool:
        """Whether `figure` is as good as `bound`; `slack` 2 asks for half of that only."""
        if self.kind == "at least":
            return figure >= bound / slack
        return figure <= bound * slack


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
    times: tuple[Histogram, ...] = ()
    """How long every one took that the figure is about, and what it is compared with."""

    def __post_init__(self) -> None:
        target = self.target
        if target is None or target.of == "ratio":
            return
        if target.gauge is None and self.unit in TIMED:
            raise ValueError(f"{self.name}: a target in {self.unit} would judge the machine")
        if target.gauge is not None and target.kind != "at most":
            raise ValueError(f"{self.name}: only times grow with a calibration")

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
    def collapsed(self) -> bool:
        """Whether a ratio reaches not even half of its target: too far off to be the noise of a
        machine.
        """
        target = self.target
        if target is None or target.of != "ratio":
            return False
        return not target.met_by(self.judged, target.bound, COLLAPSED_AT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a figure, and why nothing is."""

    word: Literal["met", "missed", "withheld", "-"]
    bound: float | None = None
    """The bound on this machine, where there is one."""
    why: str = ""


def judge(figure: Figure, calibration: Mapping[Gauge, float], busy: Sequence[str] = ()) -> Verdict:
    """Compare a figure with its target, unless the machine was busy while it was measured."""
    target = figure.target
    if target is None:
        return Verdict("-")
    bound = target.here(calibration)
    if busy and figure.unit not in COUNTED:
        return Verdict("withheld", bound, f"the machine was busy: {'; '.join(busy)}")
    if bound is None:
        return Verdict("withheld", bound, f"{target.gauge} was not calibrated")
    return Verdict("met" if target.met_by(figure.judged, bound) else "missed", bound)


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

    Each gets the moment at which it was due, to count its time from: what makes the loop late makes
    every answer late that was due meanwhile, as its caller would see it. Those of a millisecond are
    due together. One is started in any case, however long its turn takes to come. Raises what a
    launch raises, and BenchFailed when they pile up, or are fewer than one in a minute.
    """
    if per_second * RARE_S < 1:
        raise BenchFailed(f"{per_second:.3f}/s is too little to measure")
    clock = time.perf_counter
    running: set[asyncio.Task[object]] = set()
    failures: list[BaseException] = []

    def ended(task: asyncio.Future[object]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    launched, tick, ran = 0, 0, False
    try:
        with Ticks(TICK_S) as ticks:
            while (tick * TICK_S < seconds or not launched) and not failures:
                tick += 1
                due = ticks.began + tick * TICK_S
                if due <= clock():
                    await asyncio.sleep(0)  # What was begun goes on while this catches up.
                while due > clock():  # A tick that nobody waited for may have been left over.
                    await ticks.wait()
                wanted = int(tick * TICK_S * per_second)
                for _ in range(wanted - launched):
                    task = asyncio.create_task(launch(due))
                    running.add(task)
                    task.add_done_callback(ended)
                launched = wanted
                if len(running) > RUNNING_MAX:
                    failures.append(BenchFailed(f"{per_second:,.0f}/s is more than it can do"))
        ran = not failures
    finally:
        if not ran:  # Something failed, or whoever asked for this was told to stop.
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
