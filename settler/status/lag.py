"""How far behind the settler is, per shard: for status pages, health checks and alarms."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores

_SQL: Final = load_queries("status")


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard. redis_seq is None when Redis is closed, at another epoch, or has no such shard.

    unsettled_age_ms: age of the oldest unsettled event by Redis time, 0 when there is none.
    """

    shard: int
    epoch: int
    settled_seq: int
    redis_seq: int | None
    unsettled_events: int
    unsettled_age_ms: int
    open_holds: int
    unapplied_entries: int
    dead_events: int
    lost_events: int
    settled_at: datetime | None


async def shard_statuses(stores: Stores) -> list[ShardStatus]:
    """Every shard, in order. Cheap: one round trip to Redis a shard. Raises asyncpg and redis
    errors.
    """
    rows = await stores.pool.fetch(_SQL["shard_status"])
    unapplied: Counter[int] = Counter()
    for row in await stores.pool.fetch(_SQL["unapplied_entries"]):
        unapplied[shard_of(row["org_id"], len(rows))] += row["entries"]
    statuses = []
    for row in rows:
        shard, epoch, settled = row["shard"], row["epoch"], row["seq"]
        keys = stores.keys(shard)
        async with stores.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(keys.meta, "epoch", "seq")
            pipe.hlen(keys.holds)
            pipe.xrange(keys.events, f"({epoch}-{settled}", f"{epoch}-{2**64 - 1}", count=1)
            pipe.time()
            (found_epoch, found_seq), holds, oldest, (seconds, micros) = await pipe.execute()
        redis_seq = int(found_seq) if found_epoch == str(epoch).encode() and found_seq else None
        age_ms = 0
        if oldest and oldest[0][1].get(b"t", b"").isdigit():
            age_ms = max(0, seconds * 1000 + micros // 1000 - int(oldest[0][1][b"t"]))
        statuses.append(
            ShardStatus(
                shard=shard,
                epoch=epoch,
                settled_seq=settled,
                redis_seq=redis_seq,
                unsettled_events=max(0, redis_seq - settled) if redis_seq is not None else 0,
                unsettled_age_ms=age_ms,
                open_holds=holds,
                unapplied_entries=unapplied[shard],
                dead_events=row["dead_events"],
                lost_events=row["lost_events"],
                settled_at=row["settled_at"],
            )
        )
    return statuses
