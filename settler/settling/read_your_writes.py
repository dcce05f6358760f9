"""Settles everything that was acknowledged by now before books are read: read your writes.

Whoever asks notes how far the shard's events go in Redis and waits, within a bound, until the
watermark in Postgres is there. It does not wait for the settler: it settles itself, as any worker
may at any time. Callers that come together share one attempt a shard; in another process the lock
of the watermark does the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg
from redis.exceptions import RedisError

from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.fingerprint import StreamChanged
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.settling.events import parse_time
from taximeter.settler.settling.settle import Booked, settle_once
from taximeter.settler.settling.stream import NewerEvents

_SQL: Final = load_queries("status")
_PAUSE_S: Final = 0.02
_SHARDS_AT_ONCE: Final = 2
_TROUBLES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    RedisError,
    OSError,
    NewerEvents,
    StreamChanged,
)

log = logging.getLogger("taximeter.settler")


@dataclass(frozen=True, slots=True)
class AsOf:
    """What the books hold that are read from now on.

    complete: every charge acknowledged before the question. as_of: every charge before that moment,
    by the clock of Redis; None when not even that is known.
    """

    complete: bool
    as_of: datetime | None


class _Reach(NamedTuple):
    """How far the events of a shard go, compared as the stream orders them."""

    epoch: int
    seq: int


class _Wanted(NamedTuple):
    reach: _Reach
    asked_at: datetime


class CatchUp:
    """Settles for those who read. `wait_s` bounds every question. A Redis that is away raises
    nothing: the answer says so.
    """

    def __init__(
        self,
        stores: Stores,
        wait_s: float,
        *,
        batch_events: int = 5_000,
        booked: Booked | None = None,
    ) -> None:
        self._stores = stores
        self._booked = booked
        self._wait_s = wait_s
        self._batch_events = batch_events
        self._attempts: dict[int, asyncio.Task[_Reach]] = {}
        self._room = asyncio.Semaphore(_SHARDS_AT_ONCE)
        self.may_settle = True
        """False once the database has refused it; then every answer waits for the settler."""

    async def of_org(self, org_id: str) -> AsOf:
        """Catch up with the shard of one organisation. Raises asyncpg errors."""
        return await self.of_orgs((org_id,))

    async def of_orgs(self, org_ids: Iterable[str]) -> AsOf:
        """The same for several at once."""
        shards = await self._count()
        return await self._catch_up({shard_of(org_id, shards) for org_id in org_ids if shards})

    async def of_all(self) -> AsOf:
        """Catch up with every shard."""
        return await self._catch_up(range(await self._count()))

    async def aclose(self) -> None:
        """Stop what goes on. A transaction that is cut off leaves nothing behind."""
        for attempt in self._attempts.values():
            attempt.cancel()
        await asyncio.gather(*self._attempts.values(), return_exceptions=True)

    async def _count(self) -> int:
        return await count_shards(self._stores.pool)

    async def _catch_up(self, shards: Iterable[int]) -> AsOf:
        now = datetime.now(UTC)
        found = await asyncio.gather(*(self._shard(shard) for shard in shards))
        moments = [one.as_of for one in found if one.as_of is not None]
        as_of = None if len(moments) < len(found) else min(moments, default=now)
        return AsOf(all(one.complete for one in found), as_of)

    async def _shard(self, shard: int) -> AsOf:
        try:
            async with asyncio.timeout(self._wait_s):
                wanted = await self._wanted(shard)
                if wanted is not None:
                    reached = await self._reached(shard)
                    while reached < wanted.reach:
                        reached = await self._attempt(shard)
                    return AsOf(True, wanted.asked_at)
        except (*_TROUBLES, TimeoutError) as error:
            log.warning("answering from books of shard %d that are behind: %r", shard, error)
        return AsOf(False, await self._behind(shard))

    async def _wanted(self, shard: int) -> _Wanted | None:
        """How far this shard's events go now; None when Redis does not have the shard, or it is
        closed for a rebuild.
        """
        async with self._stores.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self._stores.keys(shard).meta, "epoch", "seq")
            pipe.time()
            (epoch, seq), (seconds, micros) = await pipe.execute()
        if not (epoch and epoch.isdigit() and seq and seq.isdigit()):
            return None
        asked_at = datetime.fromtimestamp(seconds + micros / 1e6, UTC)
        return _Wanted(_Reach(int(epoch), int(seq)), asked_at)

    async def _reached(self, shard: int) -> _Reach:
        row = await self._stores.pool.fetchrow(_SQL["settled_to"], shard)
        return _Reach(0, 0) if row is None else _Reach(row["epoch"], row["seq"])

    async def _attempt(self, shard: int) -> _Reach:
        """Settle once, or share the attempt that is under way; how far the books are then."""
        task = self._attempts.get(shard)
        if task is None:
            task = asyncio.create_task(self._settle(shard))
            self._attempts[shard] = task
            task.add_done_callback(lambda done: self._ended(shard, done))
        # An attempt goes on when one of those who wait for it gives up.
        return await asyncio.shield(task)

    def _ended(self, shard: int, attempt: asyncio.Task[_Reach]) -> None:
        self._attempts.pop(shard, None)
        if not attempt.cancelled():
            # Read, so that nobody is told of a failure that whoever waited was told of.
            attempt.exception()

    async def _settle(self, shard: int) -> _Reach:
        if self.may_settle:
            try:
                async with self._room:
                    done = await settle_once(
                        self._stores, shard, batch_events=self._batch_events, booked=self._booked
                    )
                if done.dead or done.lost:
                    log.warning("set events aside, or found them lost: %s", done)
                if done.state != "busy":
                    return _Reach(done.epoch, done.seq)
            except asyncpg.InsufficientPrivilegeError as error:
                log.warning("this role may not settle, so answers wait for the settler: %s", error)
                self.may_settle = False
        # Somebody else settles, and nothing wakes us when they are done.
        await asyncio.sleep(_PAUSE_S)
        return await self._reached(shard)

    async def _behind(self, shard: int) -> datetime | None:
        """The moment up to which the books of a shard are complete: its first event that is not
        settled, else its last one that is.
        """
        row = await self._stores.pool.fetchrow(_SQL["settled_to"], shard)
        if row is None:
            return None
        key = self._stores.keys(shard).events
        try:
            async with asyncio.timeout(_PAUSE_S):
                first = await self._stores.redis.xrange(
                    key, f"({row['epoch']}-{row['seq']}", "+", count=1
                )
        except (RedisError, OSError, TimeoutError):
            first = []
        time_ms = parse_time(first[0][1].get(b"t", b"")) if first else None
        if time_ms is not None:
            return datetime.fromtimestamp(time_ms / 1000, UTC)
        settled_to: datetime | None = row["settled_to"]
        return settled_to
