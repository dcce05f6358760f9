"""How each part of the system is, read at most once a second however many ask: the same in all
three processes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import asyncpg
from pydantic import BaseModel
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from taximeter.meter.wire.errors import MeterError, ShardFenced
from taximeter.settler.books.connections import UnsafeDatabase
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.status.heartbeats import Beat, judge_heartbeats
from taximeter.settler.status.lag import ShardStatus, shard_statuses

logger = logging.getLogger("taximeter.health")

_SQL: Final = load_queries("status")
TIMEOUT_S: Final = 2.0
REMEMBERED_S: Final = 1.0
LAG_ALARM_S: Final = 30.0
_DATABASE_TROUBLES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)

State = Literal["ok", "degraded", "down"]


class PartHealth(BaseModel):
    """One part. `reason` is a word for what is wrong, and no text of the inside."""

    status: State
    reason: str | None = None


class ShardHealth(PartHealth):
    """One shard: whether it takes requests, and what waits to be settled."""

    shard: int
    epoch: int
    unsettled_events: int
    settlement_lag_s: float
    open_holds: int


class SettlerHealth(PartHealth):
    """How far the books are behind the live balances, in the worst shard, and how many settlers
    show signs of life. `reason`: `none` or `stopped` when there is no living one, `stuck:` and
    `failing:` with the loop that nobody runs as it should, `late:` with a job, `behind`,
    `clock_off`, or `one_stopped` while others go on.
    """

    settlement_lag_s: float
    alive: int = 0
    stopped: int = 0


class UpstreamHealth(PartHealth):
    """The providers behind the LLM route, by what their last answers were: `ok`, `resting`,
    `unreachable`, `refuses_us` or `fails`.
    """

    upstreams: dict[str, str] = {}


class SystemHealth(BaseModel):
    """The whole. `status` is `ok` when requests are served and settled. `prices` is there where the
    process prices what models use: `degraded` when the price list in force is old, when nobody
    says how old it is, or when a list that was taken over cannot be read.
    """

    status: State
    service: str = "taximeter"
    postgres: PartHealth
    redis: PartHealth
    settler: SettlerHealth
    upstream: UpstreamHealth | None = None
    prices: PartHealth | None = None
    shards: list[ShardHealth]

    @property
    def http_status(self) -> int:
        """503 when a part that requests or their settling need is down or far behind."""
        return 503 if self.status == "down" or self.settler.reason == "behind" else 200


class HealthCheck:
    """Looks at the stores; callers that come together share one look. `upstream` tells how the
    providers are, in a process that calls some; `prices` what is wrong with the price list, its
    age say, in one that prices. With `ready`, that says how Redis is (it raises
    MeterError), and the shards are left out: for a process that may not read them.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        upstream: Callable[[], UpstreamHealth] | None = None,
        prices: Callable[[], str | None] | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._stores = stores
        self._upstream = upstream
        self._prices = prices
        self._ready = ready
        self._looking: asyncio.Task[SystemHealth] | None = None
        self._seen: SystemHealth | None = None
        self._seen_at = float("-inf")

    async def get(self) -> SystemHealth:
        """The state of a second ago or less. Never raises for a part that is down: that is the
        answer.
        """
        if self._seen is not None and time.monotonic() - self._seen_at < REMEMBERED_S:
            return self._seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def aclose(self) -> None:
        """Stop a look that goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> SystemHealth:
        (postgres, settler), redis, shards = await asyncio.gather(
            self._books(), self._redis(), self._shards()
        )
        lag = max((shard.settlement_lag_s for shard in shards), default=0.0)
        settler.settlement_lag_s = lag
        if settler.status != "down":
            if not shards and not self._ready and postgres.status == redis.status == "ok":
                settler.status, settler.reason = "down", "no_shards_yet"
            elif lag > LAG_ALARM_S:
                settler.status, settler.reason = "degraded", "behind"
        upstream = None if self._upstream is None else self._upstream()
        prices = None if self._prices is None else _price_health(self._prices())
        parts = [postgres, redis, settler, *shards]
        status: State = "ok"
        if any(part.status == "down" for part in parts):
            status = "down"
        elif any(part.status != "ok" for part in (*parts, upstream, prices) if part is not None):
            status = "degraded"
        self._seen = SystemHealth(
            status=status,
            postgres=postgres,
            redis=redis,
            settler=settler,
            upstream=upstream,
            prices=prices,
            shards=shards,
        )
        self._seen_at = time.monotonic()
        return self._seen

    async def _books(self) -> tuple[PartHealth, SettlerHealth]:
        """Postgres, and what it knows of the settlers."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                rows = await self._stores.pool.fetch(_SQL["heartbeats"])
        except _DATABASE_TROUBLES as error:
            logger.warning("health: postgres: %s: %s", type(error).__name__, error)
            unknown = SettlerHealth(status="down", reason="unknown", settlement_lag_s=0.0)
            return PartHealth(status="down", reason=_word(error)), unknown
        hearts = judge_heartbeats(Beat.of(dict(row)) for row in rows)
        state: State = "degraded" if hearts.works else "down"
        return PartHealth(status="ok"), SettlerHealth(
            status="ok" if hearts.reason is None else state,
            reason=hearts.reason,
            settlement_lag_s=0.0,
            alive=hearts.alive,
            stopped=hearts.stopped,
        )

    async def _redis(self) -> PartHealth:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await (self._ready or self._stores.redis.ping)()
        except ShardFenced:
            return PartHealth(status="down", reason="fenced")
        except (MeterError, RedisError, OSError, TimeoutError) as error:
            logger.warning("health: redis: %s: %s", type(error).__name__, error)
            return PartHealth(status="down", reason=_word(error))
        return PartHealth(status="ok")

    async def _shards(self) -> list[ShardHealth]:
        if self._ready is not None:
            return []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return [_shard(one) for one in await shard_statuses(self._stores)]
        except (*_DATABASE_TROUBLES, RedisError, MeterError) as error:
            logger.warning("health: shards: %s: %s", type(error).__name__, error)
            return []


def _price_health(alarm: str | None) -> PartHealth:
    return PartHealth(status="ok" if alarm is None else "degraded", reason=alarm)


def _word(error: BaseException) -> str:
    """For people who look at a page that needs no login: which kind, and nothing of the inside."""
    match error:
        case UnsafeDatabase():
            return "unsafe"
        case asyncpg.InvalidAuthorizationSpecificationError() | AuthenticationError():
            return "password_refused"
        case asyncpg.InvalidCatalogNameError():
            return "no_such_database"
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return "not_migrated"
        case asyncpg.InsufficientPrivilegeError() | NoPermissionError():
            return "not_permitted"
        case asyncpg.TooManyConnectionsError():
            return "too_many_connections"
        case TimeoutError():
            return "timeout"
    return "unreachable"


def _shard(status: ShardStatus) -> ShardHealth:
    is_open = status.redis_seq is not None
    return ShardHealth(
        status="ok" if is_open else "down",
        reason=None if is_open else "fenced",
        shard=status.shard,
        epoch=status.epoch,
        unsettled_events=status.unsettled_events,
        settlement_lag_s=status.unsettled_age_ms / 1000,
        open_holds=status.open_holds,
    )
