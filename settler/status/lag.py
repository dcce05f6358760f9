"""Tells how far behind the settler is, per shard: for status pages, health checks and alarms."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
from redis.exceptions import RedisError

from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.routed import by_server
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores

log: Final = logging.getLogger("taximeter.health")

_SQL: Final = load_queries("status")
ANSWER_S = 1.0
"""How long one server of several is waited for."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard. redis_seq is None when Redis is closed, at another epoch, or has no such shard.
    away: the server of a cluster that has it and does not answer, `nobody` when none has it; what
    only Redis knows is nothing then.

    unsettled_age_ms: age of the oldest unsettled event by Redis time, 0 when there is none.
    """

    shard: int
    epoch: int
    settled_seq: int
    settled_events: int
    redis_seq: int | None
    unsettled_events: int
    unsettled_age_ms: int
    open_holds: int
    unapplied_entries: int
    dead_events: int
    lost_events: int
    settled_at: datetime | None
    away: str | None = None


@dataclass(frozen=True, slots=True)
class _Live:
    """What Redis knows of a shard."""

    seq: int | None = None
    open_holds: int = 0
    oldest_age_ms: int = 0
    away: str | None = None


async def shard_statuses(stores: Stores) -> list[ShardStatus]:
    """Every shard, in order. Cheap: one round trip to Redis a shard. Of several servers those that
    do not answer in ANSWER_S are named, and the others are asked all the same. Raises asyncpg
    errors, redis errors when no server answers.
    """
    rows = await stores.pool.fetch(_SQL["shard_status"])
    if not rows:  # No settler has been here yet; there may be entries all the same.
        return []
    unapplied: Counter[int] = Counter()
    for row in await stores.pool.fetch(_SQL["unapplied_entries"]):
        unapplied[shard_of(row["org_id"], len(rows))] += row["entries"]
    by_meta = {stores.keys(row["shard"]).meta: row for row in rows}
    groups = await by_server(stores.redis, by_meta)
    found = await asyncio.gather(
        *(
            _ask(stores, server if len(groups) > 1 else "", [by_meta[meta] for meta in metas])
            for server, metas in groups.items()
        ),
        return_exceptions=True,
    )
    troubles = [one for one in found if isinstance(one, BaseException)]
    if troubles:
        raise troubles[0]
    answers = [one for one in found if not isinstance(one, BaseException)]
    if all(trouble is not None for _, trouble in answers):
        raise next(trouble for _, trouble in answers if trouble is not None)
    live = {shard: one for lives, _ in answers for shard, one in lives.items()}
    return [
        ShardStatus(
            shard=row["shard"],
            epoch=row["epoch"],
            settled_seq=row["seq"],
            settled_events=row["settled_events"],
            redis_seq=(of := live[row["shard"]]).seq,
            unsettled_events=0 if of.seq is None else max(0, of.seq - row["seq"]),
            unsettled_age_ms=of.oldest_age_ms,
            open_holds=of.open_holds,
            unapplied_entries=unapplied[row["shard"]],
            dead_events=row["dead_events"],
            lost_events=row["lost_events"],
            settled_at=row["settled_at"],
            away=of.away,
        )
        for row in rows
    ]


async def _ask(
    stores: Stores, server: str, rows: Sequence[asyncpg.Record]
) -> tuple[dict[int, _Live], Exception | None]:
    """What the server says of its shards, one after the other; `server` is empty where there is one
    alone, whose errors are raised. With what was wrong when it has said nothing.
    """
    found: dict[int, _Live] = {}
    trouble: Exception | None = None
    try:
        async with altogether(ANSWER_S if server else None):
            for row in rows:
                found[row["shard"]] = await _ask_shard(stores, row)
    except (RedisError, OSError) as error:
        if not server:
            raise
        log.warning("shards of %s: %s %s", server, type(error).__name__, error)
        trouble = None if found else error
        for row in rows:
            found.setdefault(row["shard"], _Live(away=server))
    return found, trouble


async def _ask_shard(stores: Stores, row: asyncpg.Record) -> _Live:
    epoch, settled, keys = row["epoch"], row["seq"], stores.keys(row["shard"])
    async with stores.redis.pipeline(transaction=True) as pipe:
        pipe.hmget(keys.meta, "epoch", "seq")
        pipe.hlen(keys.holds)
        pipe.xrange(keys.events, f"({epoch}-{settled}", f"{epoch}-{2**64 - 1}", count=1)
        pipe.time()
        (found_epoch, found_seq), holds, oldest, (seconds, micros) = await pipe.execute()
    seq = int(found_seq) if found_epoch == str(epoch).encode() and found_seq else None
    age_ms = 0
    if oldest and oldest[0][1].get(b"t", b"").isdigit():
        age_ms = max(0, seconds * 1000 + micros // 1000 - int(oldest[0][1][b"t"]))
    return _Live(seq, holds, age_ms)
