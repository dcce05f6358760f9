"""Tells how each part of the system is, read at most once a second however many ask: the same in
all three processes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Literal

import asyncpg
from pydantic import BaseModel, Field
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from taximeter.meter.places.places import ClusterPlaces
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.standing import agreed
from taximeter.meter.wire.errors import MeterError, ShardFenced
from taximeter.meter.wire.release import build, release
from taximeter.settler.books.connections import UnsafeDatabase
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.status.heartbeats import Beat, judge_heartbeats
from taximeter.settler.status.lag import ShardStatus, shard_statuses

logger = logging.getLogger("taximeter.health")

_SQL: Final = load_queries("status")
_SEALS: Final = load_queries("seals")
TIMEOUT_S: Final = 2.0
REMEMBERED_S: Final = 1.0
LAG_ALARM_S: Final = 30.0
LOOK_ALARM_S: Final = 900.0
"""How long ago the last look at the books may be: a settler looks each minute."""
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
    """One shard: whether it takes requests, and what waits to be settled. `reason`: `fenced`, or
    `away` when its server does not answer; then nobody knows what waits there.
    """

    shard: int
    epoch: int
    unsettled_events: int
    settlement_lag_s: float
    open_holds: int


class SettlerHealth(PartHealth):
    """How far the books are behind the live balances, in the worst shard, and how many settlers
    show signs of life. `reason`: `none` or `stopped` when there is no living one, `stuck:` and
    `failing:` with the loop that nobody runs as it should, `late:` with a job, `behind`,
    `clock_off`, or `one_stopped` while others go on; `no_shards_yet` before it was first used,
    `shards_unknown` while some server does not say how they are.
    """

    settlement_lag_s: float
    alive: int = 0
    stopped: int = 0


class BooksHealth(PartHealth):
    """What a settler's last look at the whole of the books has found. `reason`: `wrong`,
    `not_proved` when a part of them could not be read, `not_looked_at` when the last look was long
    ago. Everything from before `sealed_until` is sealed; `seal` is the number of the last seal and
    its link, to be compared with later.
    """

    checked_s_ago: float | None = None
    sealed_until: datetime | None = None
    seal: str | None = None


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
    version: str = Field(default_factory=release)
    build: str = Field(default_factory=build, description="The commit that it was built from")
    postgres: PartHealth
    redis: PartHealth
    settler: SettlerHealth
    books: BooksHealth | None = None
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
        self.seen: SystemHealth | None = None
        """What the last look found."""
        self.shards_seen: list[ShardStatus] = []
        """The shards in the last look; none when a store could not be asked about them."""
        self._seen_at = float("-inf")

    async def get(self) -> SystemHealth:
        """The state of a second ago or less. Never raises for a part that is down: that is the
        answer.
        """
        if self.seen is not None and time.monotonic() - self._seen_at < REMEMBERED_S:
            return self.seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def aclose(self) -> None:
        """Stop a look that goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> SystemHealth:
        (postgres, settler), books, redis, seen = await asyncio.gather(
            self._books(), self._checked(), self._redis(), self._shards()
        )
        shards = seen or []
        lag = max((shard.settlement_lag_s for shard in shards), default=0.0)
        settler.settlement_lag_s = lag
        if settler.status != "down":
            if not shards and not self._ready and postgres.status == redis.status == "ok":
                # What could not be asked is not said to be missing.
                settler.status = "down"
                settler.reason = "shards_unknown" if seen is None else "no_shards_yet"
            elif lag > LAG_ALARM_S:
                settler.status, settler.reason = "degraded", "behind"
        if redis.status == "ok" and any(shard.reason == "away" for shard in shards):
            redis.status, redis.reason = "degraded", "node_away"
        upstream = None if self._upstream is None else self._upstream()
        prices = None if self._prices is None else _price_health(self._prices())
        parts = [postgres, redis, settler, *shards]
        status: State = "ok"
        if any(part.status == "down" for part in parts):
            status = "down"
        elif any(
            part.status != "ok" for part in (*parts, books, upstream, prices) if part is not None
        ):
            status = "degraded"
        self.seen = SystemHealth(
            status=status,
            postgres=postgres,
            redis=redis,
            settler=settler,
            books=books,
            upstream=upstream,
            prices=prices,
            shards=shards,
        )
        self._seen_at = time.monotonic()
        return self.seen

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

    async def _checked(self) -> BooksHealth | None:
        """None where that may not be asked, could not be, or no settler ever looks at the books."""
        if self._ready is not None:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                row = (await self._stores.pool.fetch(_SEALS["last_look"]))[0]
        except _DATABASE_TROUBLES:
            return None  # Who looks at Postgres says so.
        if row["age_s"] is None:
            return None
        reason = "wrong" if row["holds"] is False else None
        if reason is None and row["age_s"] > LOOK_ALARM_S:
            reason = "not_looked_at"
        if reason is None and row["holds"] is None:
            reason = "not_proved"
        until = row["sealed_until"]
        return BooksHealth(
            status="ok" if reason is None else "degraded",
            reason=reason,
            checked_s_ago=row["age_s"],
            sealed_until=None if until is None else datetime.fromtimestamp(until, UTC),
            seal=f"{row['seal_n']}:{row['seal_head']}" if row["seal_n"] else None,
        )

    async def _redis(self) -> PartHealth:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await (self._ready or self._ping)()
        except ShardFenced:
            return PartHealth(status="down", reason="fenced")
        except (MeterError, RedisError, OSError, TimeoutError) as error:
            logger.warning("health: redis: %s: %s", type(error).__name__, error)
            return PartHealth(status="down", reason=_word(error))
        return PartHealth(status="ok")

    async def _ping(self) -> None:
        """Return when a server answers. Raises redis errors when none does."""
        redis = self._stores.redis
        places = await redis.places() if isinstance(redis, RoutedRedis) else None
        if not isinstance(places, ClusterPlaces):
            await redis.ping()
            return
        nodes = [node for node, is_primary in places.nodes().items() if is_primary]
        if not await agreed((node.ping() for node in nodes), 1):
            raise RedisConnectionError("no primary answers")

    async def _shards(self) -> list[ShardHealth] | None:
        """None when they could not be asked."""
        if self._ready is not None:
            return []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self.shards_seen = await shard_statuses(self._stores)
        except (*_DATABASE_TROUBLES, RedisError, MeterError) as error:
            logger.warning("health: shards: %s: %s", type(error).__name__, error)
            self.shards_seen = []
            return None
        return [_shard(one) for one in self.shards_seen]


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
    closed = "fenced" if status.away is None else "away"
    return ShardHealth(
        status="ok" if is_open else "down",
        reason=None if is_open else closed,
        shard=status.shard,
        epoch=status.epoch,
        unsettled_events=status.unsettled_events,
        settlement_lag_s=status.unsettled_age_ms / 1000,
        open_holds=status.open_holds,
    )
