"""Callers that go on while the schema below them changes, and that wait for no lock for long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

LOCK_TIMEOUT = "1s"
"""The server itself ends a statement that has waited for a lock so long: nothing is timed here."""

PAUSE_S = 0.005
"""Between two works of a kind: a load that leaves the processor to the change is load enough."""


@asynccontextmanager
async def impatient_pool(url: str, size: int) -> Any:
    """Sessions whose statements fail when they wait for one lock longer than LOCK_TIMEOUT."""
    async with asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        server_settings={
            "lock_timeout": LOCK_TIMEOUT,
            "timezone": "UTC",
            "application_name": "under-load",
        },
    ) as pool:
        yield pool


class Load:
    """Runs each kind of work over and over until it is left, and counts what was done."""

    def __init__(self, **works: Callable[[int], Awaitable[object]]) -> None:
        self._works = works
        self._stop = False
        self.done: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def _again(self, name: str) -> None:
        number = 0
        while not self._stop:
            number += 1
            await self._works[name](number)
            self.done[name] += 1
            await asyncio.sleep(PAUSE_S)

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._again(name)) for name in self._works]
        await self.everyone_goes_on()
        return self

    async def everyone_goes_on(self) -> None:
        """Return when each kind of work was done once more. Raises what a work has raised."""
        before = Counter(self.done)
        while not all(self.done[name] > before[name] for name in self._works):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
