"""When a measurement may be judged: pure decisions over made-up readings of a machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.conditions import REFERENCE, Counters, Look, Span, whole
from bench.harness import BenchFailed, Figure, Spread, Target, value
from bench.machine import Effort, Machine, counters, own_processor_s, stalled
from bench.report import as_dict, said
from bench.scale import QUICK
from bench.servers import Servers
from bench.suite import Report, run_suite

IDLE = {"cpu": 0.01, "io": 0.02, "memory": 0.0}
BEFORE = Look(Counters(100.0, 5_000.0, 50.0, 10.0), IDLE, dict(REFERENCE))
AFTER = Look(Counters(110.0, 5_018.0, 50.0, 28.0), IDLE, dict(REFERENCE))
"""Ten seconds on two cores, in which the bench itself took 18 of 20."""


def after(
    busy_s: float = 0.0, stolen_s: float = 0.0, calibration: float = 1.0, **waited: float
) -> Look:
    """The second look, when others took so much in between."""
    assert AFTER.counters is not None
    counted = replace(
        AFTER.counters,
        busy_s=AFTER.counters.busy_s + busy_s,
        stolen_s=AFTER.counters.stolen_s + stolen_s,
    )
    took = {**REFERENCE, "python": REFERENCE["python"] * calibration}
    return Look(counted, {**IDLE, **waited}, took)


def test_what_the_bench_takes_itself_is_no_load() -> None:
    span = Span(BEFORE, AFTER, 2)
    assert (span.others, span.stolen, span.busy) == (0.0, 0.0, ())
    assert span.calibration == pytest.approx(REFERENCE)


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (after(busy_s=0.9), ()),
        (after(busy_s=6.0), ("others took 0.60 of 2 cores",)),
        (after(stolen_s=0.3), ()),
        (after(stolen_s=1.0), ("the hypervisor took 0.10 of 2 cores",)),
        (after(cpu=0.34), ("others waited for cpu 34% of the time",)),
        (after(io=0.5), ("others waited for io 50% of the time",)),
        (after(irq=0.9), ()),
        (after(calibration=1.2), ()),
        (after(calibration=1.5), ("python calibration went from {0:,.0f} to {1:,.0f} µs",)),
        (after(calibration=0.5), ("python calibration went from {0:,.0f} to {1:,.0f} µs",)),
        (
            after(busy_s=6.0, cpu=0.34),
            ("others took 0.60 of 2 cores", "others waited for cpu 34% of the time"),
        ),
    ],
)
def test_why_nothing_is_judged(look: Look, said: tuple[str, ...]) -> None:
    took = (REFERENCE["python"], look.calibration["python"])
    assert Span(BEFORE, look, 2).busy == tuple(one.format(*took) for one in said)


def test_what_the_kernel_writes_for_us_is_no_load_either() -> None:
    """A thread of it that has ended took its count along, and one that came has all of its own."""
    assert BEFORE.counters is not None
    look = after(busy_s=6.0)
    assert look.counters is not None
    before = replace(BEFORE, counters=replace(BEFORE.counters, kernel_s={5: 100.0, 6: 1.0}))
    later = replace(look, counters=replace(look.counters, kernel_s={6: 4.0, 7: 2.5}))
    assert Span(before, later, 2).others == pytest.approx(0.05)
    assert Span(before, later, 2).busy == ()


def test_a_neighbour_of_half_a_core_counts_less_on_a_large_machine() -> None:
    assert Span(BEFORE, after(busy_s=6.0), 2).busy
    assert not Span(BEFORE, after(busy_s=6.0), 64).busy


def test_who_cannot_be_counted_is_not_taken_for_nobody() -> None:
    for first, last in ((None, AFTER.counters), (BEFORE.counters, None), (None, None)):
        span = Span(replace(BEFORE, counters=first), replace(AFTER, counters=last), 2)
        assert (span.others, span.stolen) == (None, None)
        assert span.busy == ("the load of others cannot be read here",)


def test_a_run_is_marked_where_it_was_busy_and_keeps_its_figures() -> None:
    target = Target(2, "at least")
    report = Report(
        [
            Figure("a", "a", "/s", Spread((30.0,)), Spread((10.0,)), "b", target),
            Figure("b", "b", "/s", Spread((30.0,)), Spread((10.0,)), "b", target),
            Figure("c", "c", "B", value(1.0)),
        ],
        {"quiet": 10.0, "loud": 10.0},
        {"a": "quiet", "b": "loud", "c": "loud"},
        {"quiet": Span(BEFORE, AFTER, 2), "loud": Span(BEFORE, after(busy_s=6.0), 2)},
    )
    assert [report.verdict(one).word for one in report.figures] == ["met", "withheld", "-"]
    assert report.withheld
    conditions = whole(report.spans)
    assert conditions["busy"] == {"loud": ["others took 0.60 of 2 cores"]}
    assert conditions["others"] == 0.6
    assert conditions["calibration"] == pytest.approx(REFERENCE)
    assert [one.ours.median for one in report.figures] == [30.0, 30.0, 1.0]
    del report.spans["loud"], report.figures[1:]
    assert not report.withheld


def test_a_benchmark_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def works(_: Servers) -> list[Figure]:
        return [Figure("a", "a", "B", value(1.0))]

    async def fails(_: Servers) -> list[Figure]:
        raise error

    error: Exception = BenchFailed("a side failed")
    for name, run in (("charges", works), ("requests", fails), ("sidecar", works)):
        monkeypatch.setitem(sys.modules, f"bench.{name}", SimpleNamespace(run=run))
    looks = iter([BEFORE, AFTER, AFTER, AFTER])
    names = ["charges", "requests", "sidecar"]
    report = run_suite(Servers(tmp_path, QUICK), names, looks.__next__)
    assert [report.benchmarks[one.name] for one in report.figures] == ["sidecar"] * 2
    assert list(report.spans) == list(report.seconds) == names
    assert as_dict(report, {})["failed"] == {"requests": "a side failed"}
    assert next(looks, None) is None
    error = ZeroDivisionError("of ours")
    looks = iter([BEFORE, AFTER])
    failed = run_suite(Servers(tmp_path, QUICK), ["requests"], looks.__next__).failed
    assert said(failed["requests"]).startswith("ZeroDivisionError: of ours (test_conditions.py:")


async def test_a_look_at_this_machine(tmp_path: Path, redis_url: str) -> None:
    machine = Machine(tmp_path, redis_url, "tmlook", Effort(2, 5, 2, 0.0))
    before = machine.look()
    later = machine.look()
    assert all(took > 0 for took in later.calibration.values())
    assert later.calibration.keys() == REFERENCE.keys()
    assert own_processor_s() > 0
    if counters() is not None:
        assert Span(before, later, 2).others is not None
    assert all(share >= 0 for share in stalled(0.001).values())
