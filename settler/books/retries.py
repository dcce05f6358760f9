"""Repeats a transaction that Postgres has undone for the sake of another one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

TRANSIENT: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""Postgres undid the transaction for the sake of another one: the same work can simply be done
again.
"""

T = TypeVar("T")


async def retry_transient(
    work: Callable[[], Awaitable[T]],
    *,
    attempts: int,
    first_s: float,
    max_s: float,
    undone: Callable[[], None] = lambda: None,
) -> T:
    """What `work` returns, of at most `attempts` calls; between two of them a random pause of at
    most `first_s`, then twice that, up to `max_s`. `work` is a whole transaction: a failed one has
    left nothing. `undone` is called for each that Postgres has undone. Raises what is not TRANSIENT
    at once, and what the last call raises.
    """
    for attempt in range(attempts):
        try:
            return await work()
        except TRANSIENT:
            undone()
            if attempt == attempts - 1:
                raise
            # Apart by chance, or two that have met would meet again.
            await asyncio.sleep(random.uniform(0, min(max_s, first_s * 2**attempt)))
    raise AssertionError("there is at least one attempt")
