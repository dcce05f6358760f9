"""One browser for all journeys, and a settler that works while they last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import redis
from redis.exceptions import RedisError
from support.api_world import api_options, payments, stores, world
from support.chromium import Chromium, needs_chromium
from support.proxy import Proxy
from support.world import SHARDS, World

from taximeter.settler.settling.exposure import note_exposure

__all__ = ["api_options", "payments", "stores", "world"]

SETTLES_EVERY_S = 0.3


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    needs_chromium()
    with Chromium() as browser:
        yield browser


@pytest.fixture
async def redis_wire(session_redis_url: str) -> AsyncIterator[Proxy]:
    """What stands between everybody and Redis."""
    async with Proxy(session_redis_url) as proxy:
        yield proxy


@pytest.fixture
def redis_url(session_redis_url: str, redis_wire: Proxy) -> str:
    """An empty database behind that wire."""
    with redis.Redis.from_url(session_redis_url) as client:
        client.flushdb()
    return redis_wire.url


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """The API, and what a settler does for it, as often."""

    async def settle() -> None:
        while True:
            with suppress(OSError, RedisError):  # A round survives a store that is away.
                await world.settle()
                for shard in range(SHARDS):
                    await note_exposure(world.settling, shard)
            await asyncio.sleep(SETTLES_EVERY_S)

    task = asyncio.create_task(settle())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def wire(running: World) -> AsyncIterator[Proxy]:
    """What stands between the browser and the API, and can lose answers."""
    async with Proxy(running.url) as proxy:
        yield proxy
