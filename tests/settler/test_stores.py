"""The clients that the settler opens, and what it asks of libraries beside their interface."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as RedisTimeout
from support.proxy import Proxy

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_redis


async def test_a_command_whose_reply_was_lost_is_not_sent_again(
    redis_url: str, redis: redis_asyncio.Redis, key_prefix: str
) -> None:
    """What may be repeated is decided by who knows what it does, and never by the library."""
    async with Proxy(redis_url) as proxy:
        client = open_redis(StoreSettings(redis_url=proxy.url))
        try:
            await client.ping()
            proxy.lose_replies(1, to=b"INCR")
            with pytest.raises(LostConnection):
                await client.incr(key_prefix)
        finally:
            await client.aclose()
    assert proxy.lost == 1
    assert await redis.get(key_prefix) == b"1"


async def test_no_call_waits_for_those_that_came_before_it() -> None:
    """A server that accepts connections and never answers: redis-py connects under one lock."""
    connections: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async with await asyncio.start_server(say_nothing, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = StoreSettings(redis_url=f"redis://{LOOPBACK}:{port}", redis_timeout_s=0.5)
        client = open_redis(settings)
        asked = [client.ping() for _ in range(5)]
        async with client.pipeline() as pipeline:
            pipeline.ping()
            answers = await asyncio.gather(*asked, pipeline.execute(), return_exceptions=True)
        assert all(isinstance(answer, RedisTimeout) for answer in answers), answers
        # One after the other they would have opened six.
        assert len(connections) <= 3
        await client.aclose()
        for writer in connections:
            writer.close()


async def test_asyncpg_still_says_when_a_server_has_not_confirmed_that_it_gave_up(
    pool: asyncpg.Pool,
) -> None:
    """By names that are its own: BoundedPool.release goes by them, and would wait too long or too
    briefly if they changed.
    """
    async with pool.acquire() as conn:
        own: Any = conn
        assert own._con._protocol._is_cancelling() is False
        with pytest.raises(TimeoutError):
            await conn.execute("SELECT pg_sleep(600)", timeout=0.01)
        assert own._con._protocol._is_cancelling() is True
