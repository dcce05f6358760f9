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
from redis.exceptions import NoPermissionError

from taximeter.meter.errors import UnsafeServer
from taximeter.meter.keys import ShardKeys
from taximeter.meter.permissions import SETTLER, check_permissions, missing_permission
from taximeter.meter.promise import Durability, ServerFacts, read_facts
from taximeter.settler.settings import StoreSettings

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = Any


@dataclass(frozen=True, slots=True)
class Stores:
    """Postgres, Redis (with replies as bytes), the prefix of the Redis keys, and what is asked of
    the server that has them.

    redis is a `redis.asyncio.Redis`; redis-py's annotations mix the answers of its two clients.
    """

    pool: Pool
    redis: Any
    prefix: str = "tm"
    durability: Durability = "none"

    def keys(self, shard: int) -> ShardKeys:
        """Names of the seven keys of a shard."""
        return ShardKeys(prefix=self.prefix, shard=shard)

    async def check_server(self) -> ServerFacts:
        """Ask Redis how it keeps what it has. Raises UnsafeServer when that is less than what is
        asked of it, MissingPermission, redis errors.
        """
        try:
            facts = await read_facts(self.redis)
        except NoPermissionError as error:
            raise missing_permission(self.redis, error) from error
        objections = facts.objections(self.durability)
        if objections:
            raise UnsafeServer(objections)
        await check_permissions(self.redis, SETTLER, self.keys(0).meta)
        return facts


async def open_pool(settings: StoreSettings, *, frozen_s: float = 30.0) -> Pool:
    """A Postgres pool in UTC. Raises OSError or asyncpg errors when the database cannot be
    reached.

    A process that freezes in the middle of a transaction, or whose machine vanishes, keeps the
    locks of its shard for about `frozen_s` seconds: Postgres then ends its session.
    """
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=1,
        max_size=settings.database_pool_max,
        command_timeout=settings.database_timeout_s,
        server_settings={
            "timezone": "UTC",
            "application_name": "taximeter-settler",
            "idle_in_transaction_session_timeout": f"{frozen_s * 1000:.0f}",
            "tcp_keepalives_idle": "15",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        },
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
        yield Stores(pool, redis, settings.key_prefix, settings.durability)
    finally:
        await redis.aclose()
        await pool.close()
