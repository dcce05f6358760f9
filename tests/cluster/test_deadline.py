"""A call of the settler or the API has one time limit altogether."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_redis

STEP_S, LIMIT_S = 1.0, 2.5
"""A first call asks three times or more: what there is, for a connection, and for what it wants."""


@pytest.mark.parametrize(
    "call",
    [lambda redis: redis.get("k"), lambda redis: redis.pipeline().get("k").execute()],
    ids=["command", "pipeline"],
)
async def test_steps_that_are_each_in_time_are_not_all_in_time(
    call: Callable[[Any], Awaitable[Any]],
) -> None:
    """redis-py begins its time-out anew with every answer."""

    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        try:
            while data := await reader.read(1000):
                await asyncio.sleep(STEP_S)
                writer.write(b"+OK\r\n" * data.count(b"*"))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    redis = open_redis(
        StoreSettings(redis_url=f"redis://127.0.0.1:{port}/0", redis_timeout_s=LIMIT_S)
    )
    with pytest.raises(RedisTimeoutError, match=r"no answer within 2\.5 s"):
        await call(redis)
    await redis.aclose()
    server.close()
    for task in filter(None, answering):
        task.cancel()
    await asyncio.gather(*filter(None, answering), return_exceptions=True)
    await server.wait_closed()
