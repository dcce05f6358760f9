"""Reports of what running answers have delivered: soon, and not for every event."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from support.waiting import eventually

from taximeter.api.llm import progress
from taximeter.api.llm.progress import ProgressReports


async def test_an_answer_is_reported_once_a_moment_whatever_it_brings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.02)
    monkeypatch.setattr(progress, "_REPORTS_A_TURN", 3)
    reports = ProgressReports()
    told: list[str] = []

    async def report() -> None:
        told.append("told")

    for _ in range(1000):
        reports.note("a", report)
    await eventually(lambda: _is(reports._running is None and told), what="rest")
    assert len(told) == 1, "one report for a thousand events"
    for name in "abcdefg":
        reports.note(name, report)
    reports.forget("g")
    await asyncio.sleep(0)
    await eventually(lambda: _is(len(told) == 7), what="a report for each")
    await eventually(lambda: _is(reports._running is None), what="rest")
    reports.note("a", report)
    await reports.aclose()
    assert len(told) == 7


async def test_many_answers_are_no_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of streams grow at a time: others have their turns between the reports, and a meter
    that does not answer is asked no more than so often.
    """
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.02)
    monkeypatch.setattr(progress, "_UNDER_WAY_MAX", 50)
    reports = ProgressReports()
    answered = asyncio.Event()
    turns: list[int] = []
    begun = done = 0

    async def report() -> None:
        nonlocal begun, done
        begun += 1
        await answered.wait()
        done += 1

    def turn() -> None:
        turns.append(begun)
        if done < 500:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    loop.call_soon(turn)
    for number in range(500):
        reports.note(number, report)
    await eventually(lambda: _is(begun == 50), what="as many as may be under way")
    for _ in range(100):
        await asyncio.sleep(0)
    assert begun == 50
    answered.set()
    await eventually(lambda: _is(done == 500), what="all of them")
    longest = max(after - before for before, after in pairwise(turns))
    assert longest <= progress._REPORTS_A_TURN
    await reports.aclose()


async def _is(value: object) -> bool:
    return bool(value)
