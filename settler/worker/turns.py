"""Decides who works when in one process: nothing twice at once, and every shard in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from taximeter.settler.worker.loop_activity import LoopActivity

log = structlog.get_logger("taximeter.settler")


def end_if_cancelled(error: Exception) -> None:
    """Raise CancelledError when this task was cancelled, and something on the way out has raised
    `error` in its place: whoever has cancelled it waits for its end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error


class Turns:
    """Runs named pieces of work. `at_once` shards of one server (`server_of` names it) are worked
    on at the same time for one name, so that a server that hangs holds up none of another one's; a
    shard that has more to do gets further turns for half of `timeout_s` seconds, and a piece of
    work that takes longer than `timeout_s` is cancelled.
    """

    def __init__(
        self,
        activity: LoopActivity,
        *,
        at_once: dict[str, int],
        timeout_s: float,
        server_of: Callable[[int], str] = lambda shard: "",
    ) -> None:
        self._activity = activity
        self._at_once = at_once
        self._rooms: dict[tuple[str, str], asyncio.Semaphore] = {}
        self._server_of = server_of
        self._timeout_s = timeout_s
        self._running: set[str] = set()
        self._left: set[asyncio.Task[None]] = set()
        self._aside: set[str] = set()

    async def once(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        loop: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Do this work of a loop (of the same name by default), unless it is still running. What it
        raises is logged, never raised, but for being cancelled.
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
            end_if_cancelled(error)
        else:
            self._activity.is_well(loop, name)
        finally:
            self._running.discard(name)

    def aside(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begin this work in the background, unless the one before is still going on. It bounds
        itself, and raises nothing; `end` ends it.
        """
        if name in self._aside:
            return

        async def alone() -> None:
            try:
                await work()
            finally:
                self._aside.discard(name)

        self._aside.add(name)
        task = asyncio.create_task(alone())
        self._left.add(task)
        task.add_done_callback(self._left.discard)

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
                async with self._room(name, shard):
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

    def _room(self, name: str, shard: int) -> asyncio.Semaphore:
        place = (name, self._server_of(shard))
        if place not in self._rooms:
            self._rooms[place] = asyncio.Semaphore(self._at_once[name])
        return self._rooms[place]

    async def end(self, grace_s: float) -> None:
        """Let what goes on in the background end, and cancel what has not within `grace_s`."""
        left = set(self._left)
        if not left:
            return
        _, late = await asyncio.wait(left, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
