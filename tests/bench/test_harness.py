"""Verdicts, ratios and rounds: what turns measurements into statements."""

from __future__ import annotations

import pytest

from bench.harness import (
    BenchFailed,
    Figure,
    Spread,
    Target,
    closed_loop,
    percentile,
    take_turns,
    value,
)


def figure(ours: tuple[float, ...], baseline: tuple[float, ...], target: Target) -> Figure:
    return Figure("name", "title", "/s", Spread(ours), Spread(baseline), "peer", target)


def test_the_ratio_is_that_of_rounds_side_by_side() -> None:
    """A machine that slows down half-way hits both sides of a pair, so the ratio stays."""
    one = figure((100, 10, 20), (10, 1, 2), Target(8, "at least"))
    assert one.ratio is not None
    assert one.ratio.rounds == (10, 10, 10)
    assert one.verdict == "met"


@pytest.mark.parametrize(
    ("target", "verdict", "collapsed"),
    [
        (Target(10, "at least"), "met", False),
        (Target(11, "at least"), "missed", False),
        (Target(21, "at least"), "missed", True),
        (Target(10, "at most"), "met", False),
        (Target(9, "at most"), "missed", False),
        (Target(4, "at most"), "missed", True),
        (Target(50, "at most", "value"), "met", False),
        (Target(51, "at least", "value"), "missed", False),
    ],
)
def test_a_verdict_compares_with_the_bound_and_half_of_it(
    target: Target, verdict: str, collapsed: bool
) -> None:
    one = figure((50,), (5,), target)
    assert (one.verdict, one.collapsed) == (verdict, collapsed)


def test_a_figure_without_target_is_not_judged() -> None:
    one = Figure("name", "title", "B", value(3))
    assert (one.verdict, one.collapsed, one.ratio) == ("-", False, None)


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


def test_percentiles_of_nothing_are_an_error() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99
    with pytest.raises(BenchFailed):
        percentile([], 0.5)
