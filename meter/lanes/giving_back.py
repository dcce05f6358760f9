"""Gives back what reserves may have taken whose callers were told nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from taximeter.meter.wire.errors import MeterError, Overloaded, StoreError
from taximeter.meter.wire.operations import Operation

log: Final = logging.getLogger("taximeter.meter")

_AT_ONCE: Final = 100
_PAUSE_S: Final = 0.25
_WAITING_MAX: Final = 100_000

Submit = Callable[[Operation], asyncio.Future[bytes]]


class GivingBack:
    """A reserve that was cancelled, or ended as OutcomeUnknown, may hold credits that nobody will
    use. Its id is voided as soon as Redis answers: the hold ends, a copy of the reserve that
    arrives later finds that, and the same id can be reserved anew.

    Each is tried until its hold would have ended by itself. What is left when this process ends is
    left to the deadlines of the holds.
    """

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._waiting: deque[tuple[Operation, float]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def add(self, reserve: Operation) -> None:
        """Give back what this reserve has taken, or takes yet."""
        if len(self._waiting) >= _WAITING_MAX:
            self._waiting.popleft()  # The oldest is the nearest to its deadline.
            log.warning("taximeter: too many reserves to give back; one is left to its deadline")
        loop = asyncio.get_running_loop()
        void = reserve._replace(op="void", ttl_ms=0, payload="")
        self._waiting.append((void, loop.time() + reserve.ttl_ms / 1000))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work(), name="meter-giving-back")

    async def aclose(self, deadline: float) -> None:
        """Finish before the deadline, a time of the loop; the rest ends by itself when it is
        due.
        """
        if self._worker is not None and not self._worker.done():
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait((self._worker,), timeout=left_s)
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            failed = 0
            for (void, until), done in zip(
                group,
                await asyncio.gather(*(self._void(void) for void, _ in group)),
                strict=True,
            ):
                if not done:
                    failed += 1
                    if loop.time() < until:
                        self._waiting.append((void, until))
            if failed == len(group):
                await asyncio.sleep(_PAUSE_S)

    async def _void(self, void: Operation) -> bool:
        """Whatever Redis answers, nothing is held for this reserve any more."""
        try:
            await self._submit(void)
        except (StoreError, Overloaded):
            return False
        except MeterError as error:
            log.warning("taximeter: the hold of %s is left to its deadline: %s", void.key, error)
        return True
