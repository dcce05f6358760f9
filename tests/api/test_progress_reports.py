"""Reports of what running answers have delivered: soon, and not for every event."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import eventually

from taximeter.api.llm import progress
from taximeter.api.llm.progress import ProgressReports


async def test_an_answer_is_reported_once_a_moment_whatever_it_brings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.02)
    monkeypatch.setattr(progress, "REPORTS_AT_ONCE", 3)
    reports = ProgressReports()
    told: list[str] = []

    async def report() -> None:
        told.append("told")

    for _ in range(1000):
        reports.note("a", report)
    await eventually(lambda: _is(reports._running is None), what="rest")
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


async def _is(value: bool) -> bool:
    return value
