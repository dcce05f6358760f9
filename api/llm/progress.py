"""Reports what running answers have delivered, so that a process that is killed leaves at most a
moment of them unpaid.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final

REPORT_EVERY_S: Final = 0.5
_TURN_S: Final = 0.004
_REPORTS_A_TURN: Final = 8
"""A report takes about 50 µs, in which nobody else is served: a turn of 20 was a millisecond that
every chunk behind it waited. With more answers than this allows, each is reported less often.
"""
_UNDER_WAY_MAX: Final = 1_000

Report = Callable[[], Awaitable[None]]


class ProgressReports:
    """Answers that have grown since they were last reported, each at most once in REPORT_EVERY_S,
    however many events it has. Each has its own moment, so that many of them are no burst. Nothing
    runs while nothing grows.
    """

    def __init__(self) -> None:
        self._grown: OrderedDict[object, tuple[Report, float]] = OrderedDict()
        self._running: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def note(self, who: object, report: Report) -> None:
        """This answer has grown. Awaits nothing."""
        if who not in self._grown:
            loop = asyncio.get_running_loop()
            self._grown[who] = report, loop.time() + REPORT_EVERY_S
            if self._running is None:
                self._running = loop.create_task(self._run())

    def forget(self, who: object) -> None:
        """This answer has ended, and is charged."""
        self._grown.pop(who, None)

    async def aclose(self) -> None:
        """Stop: whoever is left has been charged or is reported no more."""
        left = [*self._under_way, *([] if self._running is None else [self._running])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._grown:
                _, due = next(iter(self._grown.values()))
                await asyncio.sleep(max(due - loop.time(), _TURN_S))
                for report in self._due(loop.time()):
                    task = loop.create_task(_quietly(report))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
        finally:
            self._running = None

    def _due(self, now: float) -> Iterator[Report]:
        """Those of this turn, oldest first."""
        for _ in range(min(_REPORTS_A_TURN, _UNDER_WAY_MAX - len(self._under_way))):
            if not self._grown or next(iter(self._grown.values()))[1] > now:
                return
            _, (report, _) = self._grown.popitem(last=False)
            yield report


async def _quietly(report: Report) -> None:
    """A report that fails is made good by the next one."""
    with suppress(Exception):
        await report()
