"""Who works when in one process: nothing twice at the same time, and every shard in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("taximeter.settler")


class Turns:
    """Runs named pieces of work. `at_once` shards are worked on at the same time; one that has more
    to do gets further turns for `turn_s` seconds.
    """

    def __init__(self, *, at_once: int, turn_s: float) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._turn_s = turn_s
        self._running: set[str] = set()

    async def once(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do this work, unless it is still running. What it raises is logged, never raised."""
        if name in self._running:
            return
        self._running.add(name)
        try:
            await work()
        except Exception as error:
            log.error(name, failed=type(error).__name__, reason=str(error)[:500])
        finally:
            self._running.discard(name)

    async def each_shard(
        self, name: str, shards: int, work: Callable[[int], Awaitable[bool]]
    ) -> None:
        """Work on every shard; one that says that there is more gets another turn, for as long as
        `turn_s`. The others come in between.
        """

        async def in_turn(shard: int) -> None:
            deadline = time.monotonic() + self._turn_s
            more = True
            while more and time.monotonic() < deadline:
                async with self._room:
                    more = await work(shard)

        await asyncio.gather(
            *(
                self.once(f"{name}:{shard}", lambda shard=shard: in_turn(shard))  # type: ignore[misc]
                for shard in range(shards)
            )
        )
