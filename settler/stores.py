"""The two stores that every part of the settler works on, and how they are opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from taximeter.meter.keys import ShardKeys
from taximeter.settler.settings import StoreSettings

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = Any


@dataclass(frozen=True, slots=True)
class Stores:
    """Postgres, Redis (with replies as bytes) and the prefix of the Redis keys.

    redis is a `redis.asyncio.Redis`; redis-py's annotations mix the answers of its two clients.
    """

    pool: Pool
    redis: Any
    prefix: str = "tm"

    def keys(self, shard: int) -> ShardKeys:
        """Names of the seven keys of a shard."""
        return ShardKeys(prefix=self.prefix, shard=shard)


async def open_pool(settings: StoreSettings) -> Pool:
    """A Postgres pool in UTC. Raises OSError or asyncpg errors when the database cannot be
    reached.
    """
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=1,
        max_size=settings.database_pool_max,
        command_timeout=settings.database_timeout_s,
        server_settings={"timezone": "UTC", "application_name": "taximeter-settler"},
    )


def open_redis(settings: StoreSettings) -> Redis:
    """A Redis client with the library's retries off: what may be repeated is decided here, call by
    call.
    """
    client: Redis = Redis.from_url(
        settings.redis_url,
        decode_responses=False,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
    )
    return client


@asynccontextmanager
async def open_stores(settings: StoreSettings) -> AsyncIterator[Stores]:
    """Both stores, closed again at the end."""
    pool = await open_pool(settings)
    redis = open_redis(settings)
    try:
        yield Stores(pool, redis, settings.key_prefix)
    finally:
        await redis.aclose()
        await pool.close()
