"""The world of the settler's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World

from taximeter.settler.books.stores import Stores


@pytest.fixture
async def stores(
    pool: asyncpg.Pool, redis: redis_asyncio.Redis, key_prefix: str
) -> AsyncIterator[Stores]:
    """Both stores, empty."""
    return Stores(pool, redis, key_prefix)


@pytest.fixture
async def world(stores: Stores) -> World:
    """An opened system of one shard without organisations."""
    made = World(stores)
    await made.start()
    return made
