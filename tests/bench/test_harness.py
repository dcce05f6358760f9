"""Verdicts, ratios and rounds: what turns measurements into statements."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress

import pytest

from bench.conditions import REFERENCE
from bench.harness import (
    BenchFailed,
    Figure,
    Spread,
    Target,
    closed_loop,
    judge,
    open_loop,
    percentile,
    take_turns,
    value,
)
from bench.http_load import drive, post


def figure(ours: tuple[float, ...], baseline: tuple[float, ...], target: Target) -> Figure:
    return Figure("name", "title", "/s", Spread(ours), Spread(baseline), "peer", target)


def test_the_ratio_is_that_of_rounds_side_by_side() -> None:
    """A machine that slows down half-way hits both sides of a pair, so the ratio stays."""
    one = figure((100, 10, 20), (10, 1, 2), Target(8, "at least"))
    assert one.ratio is not None
    assert one.ratio.rounds == (10, 10, 10)
    assert judge(one, {}).word == "met"


@pytest.mark.parametrize(
    ("target", "verdict", "collapsed"),
    [
        (Target(10, "at least"), "met", False),
        (Target(11, "at least"), "missed", False),
        (Target(21, "at least"), "missed", True),
        (Target(10, "at most"), "met", False),
        (Target(9, "at most"), "missed", False),
        (Target(4, "at most"), "missed", True),
        (Target(50, "at most", "value", "python"), "met", False),
        (Target(49, "at most", "value", "python"), "missed", False),
    ],
)
def test_a_verdict_compares_with_the_bound_and_half_of_it(
    target: Target, verdict: str, collapsed: bool
) -> None:
    one = figure((50,), (5,), target)
    assert (judge(one, REFERENCE).word, one.collapsed) == (verdict, collapsed)


def test_a_figure_without_target_is_not_judged() -> None:
    one = Figure("name", "title", "B", value(3))
    assert (judge(one, {}).word, one.collapsed, one.ratio) == ("-", False, None)


@pytest.mark.parametrize(
    ("times_as_slow", "bound", "word"), [(1.0, 10.0, "missed"), (2.0, 20.0, "met")]
)
def test_a_time_is_a_multiple_of_what_a_fixed_piece_of_work_takes_here(
    times_as_slow: float, bound: float, word: str
) -> None:
    one = Figure("a", "a", "ms", value(15.0), target=Target(10.0, "at most", "value", "redis"))
    verdict = judge(one, {"redis": REFERENCE["redis"] * times_as_slow})
    assert (verdict.word, verdict.bound) == (word, pytest.approx(bound))


def test_a_target_may_not_judge_the_machine() -> None:
    for unit in ("s", "ms", "µs", "/s"):
        with pytest.raises(ValueError, match="would judge the machine"):
            Figure("a", "a", unit, value(1.0), target=Target(1.0, "at most", "value"))
    with pytest.raises(ValueError, match="only times grow"):
        Figure("a", "a", "/s", value(1.0), target=Target(1.0, "at least", "value", "python"))
    Figure("a", "a", "B", value(1.0), target=Target(1.0, "at most", "value"))


def test_nothing_is_said_of_what_was_measured_on_a_busy_machine() -> None:
    target = Target(8, "at least")
    busy = ("others took 1.20 of 2 cores", "others waited for cpu 40% of the time")
    for ours in ((100.0,), (1.0,)):
        verdict = judge(figure(ours, (10.0,), target), {}, busy)
        assert verdict.word == "withheld"
        assert verdict.why == f"the machine was busy: {'; '.join(busy)}"
    timed = Figure("a", "a", "ms", value(1.0), target=Target(1.0, "at most", "value", "disk"))
    assert judge(timed, {"python": 1.0}).why == "disk was not calibrated"
    assert judge(Figure("a", "a", "B", value(3)), {}, busy).word == "-"
    held = Figure("a", "a", "B", value(3), target=Target(2, "at most", "value"))
    assert judge(held, {}, busy).word == "missed", "memory is as large on a busy machine"


async def test_sides_run_in_turn_and_the_warm_up_does_not_count() -> None:
    ran: list[tuple[str, float]] = []

    def side(name: str) -> object:
        async def run(seconds: float) -> float:
            ran.append((name, seconds))
            return float(len(ran))

        return run

    seen = await take_turns(
        {"a": side("a"), "b": side("b")},  # type: ignore[dict-item]  # a plain function is enough
        rounds=2,
        seconds=5,
        warm_up_s=1,
    )
    assert ran == [("a", 1), ("b", 1), ("a", 5), ("b", 5), ("a", 5), ("b", 5)]
    assert (seen["a"].rounds, seen["b"].rounds) == ((3, 5), (4, 6))


async def test_a_loop_counts_what_was_done_and_stops_at_a_failure() -> None:
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1

    done = await closed_loop(once, callers=7, seconds=0.01)
    assert done.total == calls
    assert done.counted == calls - 7

    async def fail() -> None:
        raise BenchFailed("refused")

    with pytest.raises(BenchFailed, match="refused"):
        await closed_loop(fail, callers=2, seconds=60)


async def test_a_call_counts_from_when_it_was_due_however_late_the_loop_is() -> None:
    """What stands still for a while makes everything late that was due meanwhile, and no later."""
    due: list[float] = []

    async def launch(counted_from: float) -> None:
        due.append(counted_from)
        assert counted_from <= time.perf_counter()
        if len(due) == 5:
            time.sleep(0.02)  # noqa: ASYNC251 - the loop stands still, as in a collection

    assert await open_loop(launch, per_second=2_000, seconds=0.05) == 100
    moments = sorted(set(due))
    assert len(moments) == 50
    assert [due.count(moment) for moment in moments] == [2] * 50
    steps = [after - before for before, after in itertools.pairwise(moments)]
    assert steps == pytest.approx([0.001] * 49, abs=1e-6)


async def test_an_open_loop_measures_something_however_slow_the_machine_is() -> None:
    due: list[float] = []

    async def launch(counted_from: float) -> None:
        due.append(counted_from)

    assert await open_loop(launch, per_second=5, seconds=0.05) == len(due) == 1
    with pytest.raises(BenchFailed, match=r"0\.010/s is too little"):
        await open_loop(launch, per_second=0.01, seconds=0.05)


async def test_a_closed_loop_of_requests_counts_its_first_answer_however_late() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        load = await drive(url, [lambda: post(url, b"{}")], connections=1, seconds=0)
    assert len(load.times) == 1
    assert load.per_second == pytest.approx(1 / load.seconds)
    assert load.seconds >= load.times[0]


async def test_what_an_open_loop_has_begun_ends_with_it() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def launch(_: float) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    loop = asyncio.create_task(open_loop(launch, per_second=1_000, seconds=3_600))
    await begun.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert ended
    assert set(ended) == {"cancelled"}

    async def fail(_: float) -> None:
        raise BenchFailed("refused")

    with pytest.raises(BenchFailed, match="refused"):
        await open_loop(fail, per_second=1_000, seconds=3_600)


def test_percentiles_of_nothing_are_an_error() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99
    with pytest.raises(BenchFailed):
        percentile([], 0.5)
