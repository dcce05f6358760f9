"""Tracks work that must end although the request that began it is gone, and waits for it when the
API stops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("taximeter.api")

T = TypeVar("T")
REQUESTS_SHARE = 0.75
"""Of the grace of a shutdown, what is for requests; the rest is for charges that still run."""


class Grace:
    """What is left of the grace of a shutdown, for everything that has to end within it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_at: float | None = None

    def begin(self) -> None:
        """It counts from now on."""
        self._ends_at = time.monotonic() + self._seconds

    def left_s(self) -> float:
        """Seconds, never below 0; all of them before it has begun."""
        if self._ends_at is None:
            return self._seconds
        return max(0.0, self._ends_at - time.monotonic())


class TaskTracker:
    """Tasks of the application, outside the cancel scope of any request.

    A client that disconnects cancels what its request awaits, again and again, also inside
    `finally`. What settles money is therefore spawned here and at most waited for there.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task and keep it until it ends. Safe to call while being cancelled: it awaits
        nothing.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Read, so that nothing is reported twice: whoever awaits the task gets it too.
            task.exception()

    async def drain(self, timeout_s: float) -> int:
        """Wait for what runs, at most this long, then cancel the rest. Returns how many had to be
        cancelled.

        A charge that is cancelled here is not lost: its hold expires, and the progress that it
        reported is charged.
        """
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        late = set(self._tasks)
        for task in late:
            task.cancel()
        if late:
            logger.error("%d background tasks did not end within %.1f s", len(late), timeout_s)
            await asyncio.wait(late, timeout=1.0)
        return len(late)

    async def cancel(self) -> None:
        """Give up what runs, and wait until it has ended."""
        running = tuple(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)
