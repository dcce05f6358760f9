"""Waiting on conditions, with a bound: tests never sleep for a fixed time and hope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], Awaitable[object]], *, within_s: float = 60.0, what: str = "condition"
) -> None:
    """Return as soon as `condition` is true; fail when it is still false after `within_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while not await condition():
        assert loop.time() < end, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(0.01)
