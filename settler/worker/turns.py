"""Who works when in one process: nothing twice at the same time, and every shard in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from taximeter.settler.worker.loop_activity import LoopActivity

log = structlog.get_logger("taximeter.settler")


class Turns:
    """Runs named pieces of work. `at_once` shards are worked on at the same time for one name; a
    shard that has more to do gets further turns for half of `timeout_s` seconds, and a piece of
    work that takes longer than `timeout_s` is cancelled.
    """

    def __init__(
        self, activity: LoopActivity, *, at_once: dict[str, int], timeout_s: float
    ) -> None:
        self._activity = activity
        self._room = {name: asyncio.Semaphore(room) for name, room in at_once.items()}
        self._timeout_s = timeout_s
        self._running: set[str] = set()
        self._left: set[asyncio.Task[None]] = set()

    async def once(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        loop: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Do this work of a loop (of the same name by default), unless it is still running. What it
        raises is logged, never raised.
        """
        if name in self._running:
            return
        self._running.add(name)
        loop = loop or name
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                await work()
        except Exception as error:
            self._activity.fails(loop, name, error)
            log.error(name, failed=type(error).__name__, reason=str(error)[:500])
        else:
            self._activity.is_well(loop, name)
        finally:
            self._running.discard(name)

    async def each_shard(
        self,
        name: str,
        shards: int,
        work: Callable[[int], Awaitable[bool]],
        *,
        patience_s: float | None = None,
    ) -> None:
        """Work on every shard; one that says that there is more gets another turn, and the others
        come in between. Shards that are not done after `patience_s` go on in the background, and
        are passed over by further calls until they are.
        """

        async def in_turn(shard: int) -> None:
            deadline = time.monotonic() + self._timeout_s / 2
            more = True
            while more and time.monotonic() < deadline:
                async with self._room[name]:
                    more = await work(shard)
                self._activity.beat(name)

        tasks = {
            asyncio.create_task(
                self.once(f"{name}:{shard}", lambda shard=shard: in_turn(shard), loop=name)  # type: ignore[misc]
            )
            for shard in range(shards)
        }
        if not tasks:
            return
        self._left |= tasks
        for task in tasks:
            task.add_done_callback(self._left.discard)
        try:
            await asyncio.wait(tasks, timeout=patience_s)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def end(self, grace_s: float) -> None:
        """Let what goes on in the background end, and cancel what has not within `grace_s`."""
        left = set(self._left)
        if not left:
            return
        _, late = await asyncio.wait(left, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
