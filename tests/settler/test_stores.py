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
from support.silent import silent_server

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_pool, open_redis


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
    with silent_server() as server:
        settings = StoreSettings(redis_url=f"redis://{LOOPBACK}:{server.port}", redis_timeout_s=0.5)
        client = open_redis(settings)
        asked = [client.ping() for _ in range(5)]
        async with client.pipeline() as pipeline:
            pipeline.ping()
            answers = await asyncio.gather(*asked, pipeline.execute(), return_exceptions=True)
        assert all(isinstance(answer, RedisTimeout) for answer in answers), answers
        # One after the other they would have opened six.
        assert server.connections <= 3
        await client.aclose()


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


@pytest.mark.parametrize("ending", ["closed", "given up"])
async def test_a_transaction_says_nothing_else_than_what_ended_it(
    database_url: str, ending: str
) -> None:
    """Its connection was closed meanwhile, or does not confirm in time that a command was given up:
    whoever was cancelled is cancelled, and the pool goes on.
    """
    begun, pool = asyncio.Event(), await open_pool(StoreSettings(database_url=database_url))

    async def work() -> None:
        async with pool.acquire() as conn, conn.transaction():
            begun.set()
            try:
                await conn.execute("SELECT pg_sleep(600)")
            finally:
                if ending == "closed":
                    conn.terminate()
                else:
                    await _never_confirms(conn)

    try:
        task = asyncio.create_task(work())
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()
        assert await pool.fetchval("SELECT 1") == 1
    finally:
        await pool.close()


async def _never_confirms(conn: Any) -> None:
    """As of a server that is too busy to hear of the cancelling."""

    async def reset(*_: object, **__: object) -> None:
        raise TimeoutError

    conn._con.reset = reset
    conn._con._protocol.query = reset


async def test_a_commit_that_fails_is_told(database_url: str) -> None:
    pool = await open_pool(StoreSettings(database_url=database_url))

    async def commit_on_a_closed_connection() -> None:
        async with pool.acquire() as conn, conn.transaction():
            conn.terminate()

    try:
        with pytest.raises(asyncpg.InterfaceError):
            await commit_on_a_closed_connection()
    finally:
        await pool.close()
