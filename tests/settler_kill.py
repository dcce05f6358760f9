"""Cuts a coroutine off at its k-th suspension: every point at which a process can die or a task can
be cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import redis.asyncio as redis_asyncio

from taximeter.settler.books.stores import Stores


class CutOff:
    """Awaitable that runs `work` and cuts it off at its `at`-th suspension, counted from 1.

    `before` runs at that moment; with it closing the connections, this is as abrupt as a kill.
    `reached` says afterwards whether there was such a suspension at all: enumerating ends when
    there is not.
    """

    def __init__(
        self, work: Coroutine[Any, Any, Any], at: int, before: Callable[[], None] | None = None
    ) -> None:
        self._work = work
        self._at = at
        self._before = before
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        suspensions = 0
        error: BaseException | None = None
        value: Any = None
        while True:
            try:
                pending = inner.send(value) if error is None else inner.throw(error)
            except StopIteration as finished:
                return finished.value
            suspensions += 1
            if suspensions == self._at:
                self.reached = True
                if self._before is not None:
                    self._before()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            value = error = None
            try:
                value = yield pending
            except BaseException as thrown:
                error = thrown


async def run_cut_off(cut: CutOff) -> bool:
    """Run in a task of its own; True when it was cut off, False when it came to its end first."""

    async def run() -> None:
        await cut

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=120)
    assert task.done(), "the cut-off work hangs"
    if not task.cancelled() and (error := task.exception()) is not None and not cut.reached:
        raise error
    return cut.reached


@asynccontextmanager
async def own_stores(
    database_url: str, redis_url: str, prefix: str
) -> AsyncIterator[tuple[Stores, asyncpg.Pool]]:
    """Stores with connections of their own, as another process has them."""
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=3)
    redis = redis_asyncio.Redis.from_url(redis_url)
    try:
        yield Stores(pool, redis, prefix), pool
    finally:
        pool.terminate()
        await redis.aclose()
