"""Keeps the loops of a process going: rounds at an interval of the monotonic clock, whatever they
raise and however long they take.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.turns import end_if_cancelled

PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 1.0
_IN_STEP: Final = 0.75

log = structlog.get_logger("taximeter.settler")


class Bell:
    """Says to every loop at once that there is work that none of them could know of."""

    def __init__(self) -> None:
        self._next_ring = asyncio.Event()

    def ring(self) -> None:
        """Let every loop begin a round now, or as soon as the one that it is in has ended."""
        self._next_ring.set()
        self._next_ring = asyncio.Event()

    @property
    def next_ring(self) -> asyncio.Event:
        """Set by the next ring after now."""
        return self._next_ring


@dataclass(frozen=True, slots=True)
class Loop:
    """A round of `work` begins every `every_s` seconds or a little earlier, or when the one before
    has ended; one that takes longer than `timeout_s` is cancelled.
    """

    name: str
    work: Callable[[], Awaitable[None]]
    every_s: float
    timeout_s: float


async def run_loops(
    loops: Sequence[Loop],
    activity: LoopActivity,
    stop: asyncio.Event,
    *,
    grace_s: float,
    bell: Bell | None = None,
) -> None:
    """Run until `stop` is set; rounds that run then get `grace_s` to end, and are cancelled. When
    the bell rings, loops that pause between two rounds pause no longer.

    A loop that ends by itself, which none should, is started again.
    """
    for loop in loops:
        activity.expect(loop.name, loop.every_s)
    bell = bell or Bell()
    running = {asyncio.create_task(_keep(loop, activity, stop, bell)): loop for loop in loops}
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            await asyncio.wait((stopping, *running), return_when=asyncio.FIRST_COMPLETED)
            for ended in [task for task in running if task.done() and not stop.is_set()]:
                loop = running.pop(ended)
                reason = "cancelled" if ended.cancelled() else repr(ended.exception())
                log.error("loop", name=loop.name, ended=reason, restart_in_s=PAUSE_FIRST_S)
                await _pause(PAUSE_FIRST_S, stop)
                running[asyncio.create_task(_keep(loop, activity, stop, bell))] = loop
        await asyncio.wait(running, timeout=grace_s)
    finally:
        for task in (stopping, *running):
            task.cancel()
        await asyncio.gather(stopping, *running, return_exceptions=True)


async def _keep(loop: Loop, activity: LoopActivity, stop: asyncio.Event, bell: Bell) -> None:
    pause_s = PAUSE_FIRST_S
    while not stop.is_set():
        started, ring = time.monotonic(), bell.next_ring
        activity.beat(loop.name)
        try:
            async with asyncio.timeout(loop.timeout_s):
                await loop.work()
        except Exception as error:
            activity.fails(loop.name, "round", error)
            log.error(
                loop.name, failed=type(error).__name__, reason=str(error)[:500], retry_in_s=pause_s
            )
            end_if_cancelled(error)
            await _pause(pause_s, stop)
            pause_s = min(PAUSE_MAX_S, pause_s * 2)
            continue
        pause_s = PAUSE_FIRST_S
        activity.is_well(loop.name, "round")
        # Not in step with another settler, which would have the shard whenever this one comes.
        every_s = loop.every_s * random.uniform(_IN_STEP, 1.0)
        await _pause(every_s - (time.monotonic() - started), stop, ring)


async def _pause(seconds: float, *unless: asyncio.Event) -> None:
    """Wait, also for no time at all, so that a loop that has always more to do leaves room."""
    ends = [asyncio.create_task(event.wait()) for event in unless]
    try:
        await asyncio.wait(ends, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
