"""Bounds a call of redis-py as a whole: its own time-outs begin anew with every step of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import TimeoutError as RedisTimeoutError


@asynccontextmanager
async def altogether(deadline_s: float | None) -> AsyncIterator[None]:
    """Raises redis-py's TimeoutError after so many seconds; None waits as long as it takes."""
    if deadline_s is None:
        yield
        return
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as error:
        raise RedisTimeoutError(f"no answer within {deadline_s:g} s") from error
