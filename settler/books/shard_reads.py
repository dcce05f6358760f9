"""Reads one shard's keys for the several rooms that need them. Nothing here changes anything."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool, Session, Stores

_SQL: Final = load_queries("guardian")
_SCAN_COUNT: Final = 1_000


async def scan_hash(redis: Any, key: str) -> dict[bytes, bytes]:
    """A whole hash in small steps, by its fields, since a scan may answer one twice. What changes
    meanwhile may be old or new. Raises redis errors.
    """
    scan = redis.hscan_iter(key, count=_SCAN_COUNT)
    return {name: record async for name, record in scan}


def parse_hold(record: bytes) -> tuple[str, int]:
    """(account, amount in millicredits) of an open hold; ("", 0) for a record that cannot be
    read, or has more than anybody can hold.
    """
    try:
        hold = HoldRecord.parse(record)
    except ValueError:
        return "", 0
    if hold.amount > AMOUNT_MAX:
        return "", 0
    return hold.account, hold.amount


async def read_uncharged(stores: Stores, shard: int) -> tuple[int, int]:
    """(holds, millicredits) that expired unpaid in this shard, ever, since what they had reported
    was from before a start of the server that may have lost their end. Raises redis errors.
    """
    found = await stores.redis.hmget(stores.keys(shard).meta, "uncharged_holds", "uncharged_amount")
    holds, amount = (int(text) if text and text.isdigit() else 0 for text in found)
    return holds, amount


async def unsettled_before(
    books: Pool | Session, redis: Any, prefix: str, until: datetime
) -> tuple[int, ...]:
    """Shards that may have an event of before `until` that is not settled. Redis is asked where the
    time of the last settled event does not say. Raises asyncpg and redis errors.
    """
    found = []
    for row in await books.fetch(_SQL["settled_before"], until):
        epoch, seq = await redis.hmget(
            ShardKeys(prefix=prefix, shard=row["shard"]).meta, "epoch", "seq"
        )
        if (epoch, seq) != (b"%d" % row["epoch"], b"%d" % row["seq"]):
            found.append(row["shard"])
    return tuple(found)
