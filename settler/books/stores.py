"""Opens the two stores that every part of the settler works on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from taximeter.meter.places.places import name_of
from taximeter.meter.places.routed import RoutedRedis, by_server, known_server, server_of
from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.server.durability import ServerFacts, read_facts
from taximeter.meter.server.permissions import (
    SETTLER,
    check_permissions,
    missing_permission,
    user_of,
)
from taximeter.meter.settings import Durability
from taximeter.meter.wire.errors import UnsafeServer
from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.connection_pools import BoundedPool, make_pool
from taximeter.settler.books.connections import UnsafeDatabase
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.timelines import Timelines

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Session = Connection | asyncpg.Connection[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = Any
    Session = Any


DATA_FORMAT: Final = "1"
"""Version of keys and records that this release reads and writes."""

AWAY: Final = (
    OSError,  # Refused, unreachable, reset, and no answer in time.
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # It starts, stops, or somebody ends our session.
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # A standby that may be promoted, or a pause for upkeep.
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.InternalClientError,  # A session that was ended between two commands of ours.
)
"""What a Postgres answers that cannot be used now, and may be later without anybody's doing."""


def is_away(error: BaseException) -> bool:
    """Whether this Postgres cannot be used now, and may be later without anybody's doing: what a
    process waits for. An answer that a person must do something about is not of them.
    """
    if isinstance(error, UnsafeDatabase):
        return False
    return isinstance(error, (*AWAY, asyncpg.InterfaceError))


@dataclass(frozen=True, slots=True)
class Stores:
    """Postgres, Redis (with replies as bytes), the prefix of the Redis keys, and what is asked of
    the server that has them.

    redis is that of `open_redis`, or any `redis.asyncio.Redis`; redis-py's annotations mix the
    answers of its two clients.
    """

    pool: Pool
    redis: Any
    prefix: str = "tm"
    durability: Durability = "none"
    installation: str | None = None
    """The name of this installation, where the settings have one."""

    def keys(self, shard: int) -> ShardKeys:
        """Names of the eight keys of a shard."""
        return ShardKeys(prefix=self.prefix, shard=shard)

    def server_name(self, shard: int) -> str:
        """Of the server that has the shard, as far as is known without asking; empty where there is
        one alone.
        """
        return known_server(self.redis, self.keys(shard).meta)

    async def server(self, shard: int) -> Any:
        """A client of the one server that has the shard now. Raises redis errors."""
        return await server_of(self.redis, self.keys(shard).meta)

    async def note_history(self, history: str) -> None:
        """Hear of the Postgres that a shard has been seen with: connections to an older primary of
        the same data are replaced.
        """
        if isinstance(self.pool, BoundedPool):
            await self.pool.timelines.note(history)

    async def check_server(self, *shards: int) -> dict[str, ServerFacts | None]:
        """Ask Redis how it keeps what it has: the servers that have these shards (the first, when
        none is named), all at once; what each says, by its name. Of several, one that does not
        answer is None. Raises UnsafeServer when that is less than what is asked of it,
        MissingPermission, redis errors when none answers.
        """
        names = {self.keys(shard).meta: None for shard in shards or (0,)}
        keys = [group[0] for group in (await by_server(self.redis, names)).values()]
        found = await asyncio.gather(*map(self._check, keys), return_exceptions=True)
        errors = [one for one in found if isinstance(one, BaseException)]
        # What somebody must do something about comes before what may pass.
        for error in sorted(errors, key=lambda error: isinstance(error, RedisError | OSError)):
            if len(errors) == len(found) or not isinstance(error, RedisError | OSError):
                raise error
        return {
            known_server(self.redis, key): None if isinstance(one, BaseException) else one
            for key, one in zip(keys, found, strict=True)
        }

    async def _check(self, key: str) -> ServerFacts:
        server = await server_of(self.redis, key)
        try:
            facts = await read_facts(server)
        except NoPermissionError as error:
            raise missing_permission(user_of(server), error, name_of(server)) from error
        objections = facts.objections(self.durability)
        if objections:
            raise UnsafeServer(objections, name_of(server))
        await check_permissions(server, SETTLER, key)
        return facts


async def open_pool(
    settings: StoreSettings,
    *,
    frozen_s: float = 30.0,
    name: str = "taximeter-settler",
    size_min: int = 1,
    timelines: Timelines | None = None,
    statement_s: float | None = None,
) -> Pool:
    """A Postgres pool in UTC, whose sessions are called `name`. Raises UnsafeDatabase, OSError or
    asyncpg errors when the database cannot be used; with a `size_min` of 0 only when it is.

    `statement_s`: how long a statement may take, else `database_timeout_s`.

    A process that freezes in the middle of a transaction, or whose machine vanishes, keeps the
    locks of its shard for at most about `frozen_s` seconds: Postgres then ends its session.
    """
    pool = make_pool(
        settings.database_url,
        size_min=size_min,
        size_max=settings.database_pool_max,
        command_timeout_s=settings.database_timeout_s if statement_s is None else statement_s,
        wait_s=settings.database_timeout_s,
        accept_loss=settings.database_durability == "none",
        timelines=timelines,
        server_settings={
            "application_name": name,
            "idle_in_transaction_session_timeout": f"{frozen_s * 1000:.0f}",
            "tcp_keepalives_idle": "15",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        },
    )
    return await pool


def open_redis(settings: StoreSettings) -> RoutedRedis:
    """A Redis client with the library's retries off: what may be repeated is decided here, call by
    call. None takes longer than `redis_timeout_s` altogether.
    """
    seeds = read_seeds(
        settings.redis_url,
        decode_responses=False,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return RoutedRedis(seeds, deadline_s=settings.redis_timeout_s)


@asynccontextmanager
async def open_stores(
    settings: StoreSettings,
    *,
    name: str = "taximeter-settler",
    size_min: int = 1,
    timelines: Timelines | None = None,
    statement_s: float | None = None,
) -> AsyncIterator[Stores]:
    """Both stores, closed again at the end. For what is named see `open_pool`, and `make_pool`."""
    pool = await open_pool(
        settings, name=name, size_min=size_min, timelines=timelines, statement_s=statement_s
    )
    redis = open_redis(settings)
    try:
        yield Stores(pool, redis, settings.key_prefix, settings.durability, settings.installation)
    finally:
        await redis.aclose()
        await pool.close()
