"""How each part of the system is, read at most once a second however many ask."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

import asyncpg
from pydantic import BaseModel
from redis.exceptions import RedisError

from taximeter.api.background import TaskTracker
from taximeter.api.queries import HEALTH
from taximeter.meter.errors import MeterError
from taximeter.settler.status import ShardStatus, shard_statuses
from taximeter.settler.stores import Stores

logger = logging.getLogger("taximeter.api")

TIMEOUT_S = 3.0
REMEMBERED_S = 1.0
LAG_ALARM_S = 30.0

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
    """How far the books are behind the live balances, in the worst shard."""

    settlement_lag_s: float


class SystemHealth(BaseModel):
    """The whole. `status` is `ok` when requests are served and settled."""

    status: State
    service: str = "taximeter"
    postgres: PartHealth
    redis: PartHealth
    settler: SettlerHealth
    upstream: PartHealth
    shards: list[ShardHealth]


class HealthCheck:
    """Looks at the stores; callers that come together share one look."""

    def __init__(self, stores: Stores, tracker: TaskTracker, *, has_upstream: bool) -> None:
        self._stores = stores
        self._tracker = tracker
        self._has_upstream = has_upstream
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
            self._looking = self._tracker.spawn(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> SystemHealth:
        postgres, redis, shards = await asyncio.gather(
            self._postgres(), self._redis(), self._shards()
        )
        lag = max((shard.settlement_lag_s for shard in shards), default=0.0)
        settler = SettlerHealth(status="ok", settlement_lag_s=lag)
        if not shards:
            reason = "unknown" if postgres.status != "ok" else "no_shards_yet"
            settler = SettlerHealth(status="down", reason=reason, settlement_lag_s=0.0)
        elif lag > LAG_ALARM_S:
            settler = SettlerHealth(status="degraded", reason="behind", settlement_lag_s=lag)
        upstream = PartHealth(status="ok")
        if not self._has_upstream:
            upstream = PartHealth(status="degraded", reason="not_configured")
        parts = [postgres, redis, settler, *shards]
        status: State = "ok"
        if any(part.status == "down" for part in parts):
            status = "down"
        elif any(part.status == "degraded" for part in (*parts, upstream)):
            status = "degraded"
        self._seen = SystemHealth(
            status=status,
            postgres=postgres,
            redis=redis,
            settler=settler,
            upstream=upstream,
            shards=shards,
        )
        self._seen_at = time.monotonic()
        return self._seen

    async def _postgres(self) -> PartHealth:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._stores.pool.fetchval(HEALTH["ping"])
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            logger.warning("health: postgres: %r", error)
            return PartHealth(status="down", reason=_word(error))
        return PartHealth(status="ok")

    async def _redis(self) -> PartHealth:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._stores.redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("health: redis: %r", error)
            return PartHealth(status="down", reason=_word(error))
        return PartHealth(status="ok")

    async def _shards(self) -> list[ShardHealth]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return [_shard(one) for one in await shard_statuses(self._stores)]
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            RedisError,
            MeterError,
            OSError,
            TimeoutError,
        ) as error:
            logger.warning("health: shards: %r", error)
            return []


def _word(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "unreachable"


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
