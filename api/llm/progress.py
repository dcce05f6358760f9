"""Reports what running answers have delivered, so that a process that is killed leaves at most a
moment of them unpaid.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

REPORT_EVERY_S: Final = 0.5
REPORTS_AT_ONCE: Final = 1000
"""Most reports at a time, which the meter sends in a few calls. With more answers than that each is
reported less often.
"""

Report = Callable[[], Awaitable[None]]


class ProgressReports:
    """Answers that have grown since they were last reported, each at most once in REPORT_EVERY_S,
    however many events it has. Nothing runs while nothing grows.
    """

    def __init__(self) -> None:
        self._grown: OrderedDict[object, Report] = OrderedDict()
        self._running: asyncio.Task[None] | None = None

    def note(self, who: object, report: Report) -> None:
        """This answer has grown. Awaits nothing."""
        if who not in self._grown:
            self._grown[who] = report
            if self._running is None:
                self._running = asyncio.get_running_loop().create_task(self._run())

    def forget(self, who: object) -> None:
        """This answer has ended, and is charged."""
        self._grown.pop(who, None)

    async def aclose(self) -> None:
        """Stop: whoever is left has been charged or is reported no more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._grown:
                await asyncio.sleep(REPORT_EVERY_S)
                count = min(REPORTS_AT_ONCE, len(self._grown))
                reports = [self._grown.popitem(last=False)[1] for _ in range(count)]
                await asyncio.gather(*(report() for report in reports), return_exceptions=True)
        finally:
            self._running = None
