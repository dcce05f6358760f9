"""Waiting on conditions, with a bound: tests never sleep for a fixed time and hope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from taximeter.meter import NotConfirmed, OutcomeUnknown, StoreUnavailable

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[object]],
    *,
    within_s: float = 60.0,
    every_s: float = 0.01,
    what: str = "condition",
) -> None:
    """Return as soon as `condition` is true; fail when it is still false after `within_s`. Who asks
    for much, or for what takes seconds, asks less often.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while not await condition():
        assert loop.time() < end, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(every_s)


async def confirmed(call: Callable[[], Awaitable[T]], *, within_s: float = 120.0) -> T:
    """What a call comes to whose wait for others is so short that a busy machine may miss it: it is
    made again, with the same request id, until they have confirmed it.
    """
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await call()
            except NotConfirmed:
                await asyncio.sleep(0.01)


async def answered(call: Callable[[], Awaitable[T]], *, within_s: float = 120.0) -> T:
    """What a call comes to whose own time-out is so short that a busy machine may miss it: it is
    made again, with the same request id, until there is an answer.
    """
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await call()
            except NotConfirmed:  # An answer as well.
                raise
            except (StoreUnavailable, OutcomeUnknown):
                await asyncio.sleep(0.01)
