"""A Redis client whose calls end in time, also where connecting takes long for everybody.

A server that accepts connections and says nothing is asked by one call after the other: redis-py
connects under a lock of the whole pool, and its time-outs are for a connection or a reply. Whoever
came last waited for all, and held a lock of Postgres meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import TimeoutError as RedisTimeout


class BoundedRedis(Redis):
    """Each command, and each pipeline as a whole, ends within `total_s` seconds. Raises
    redis.exceptions.TimeoutError then: it may have taken effect.
    """

    total_s: float = 5.0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the library's."""
        async with _within(self.total_s):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> BoundedPipeline:
        """As the library's, bounded as a whole."""
        made = BoundedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.total_s = self.total_s
        return made


class BoundedPipeline(Pipeline):
    """See BoundedRedis."""

    total_s: float = 5.0

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """As the library's."""
        async with _within(self.total_s):
            return await super().execute(raise_on_error)


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RedisTimeout(f"no answer within {seconds:g} s") from error
