"""Waits until everything is in Postgres, and says how long that took per charge."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from taximeter.api.demo.admin import DemoFailed
from taximeter.api.sql import DEMO
from taximeter.settler.books.stores import Stores
from taximeter.settler.status.lag import ShardStatus, shard_statuses

SETTLE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Lag:
    """From the charge in Redis to its commit in Postgres, in seconds, over `events` charges."""

    events: int
    p50_s: float
    p99_s: float


async def wait_until_settled(stores: Stores) -> None:
    """Return when nothing is unsettled, held or unapplied. Raises DemoFailed when it takes long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLE_TIMEOUT_S
    while True:
        shards = await shard_statuses(stores)
        if not any(_behind(shard) for shard in shards):
            return
        if loop.time() > end:
            raise DemoFailed(f"not settled after {SETTLE_TIMEOUT_S:.0f} s: {shards}")
        await asyncio.sleep(0.1)


def _behind(shard: ShardStatus) -> bool:
    waits = shard.unsettled_events or shard.open_holds or shard.unapplied_entries
    return bool(waits) or shard.away is not None


async def settlement_lag(stores: Stores, org_ids: list[str]) -> Lag:
    """The lag of every charge of these organisations."""
    row = (await stores.pool.fetch(DEMO["settlement_lag"], org_ids))[0]
    return Lag(row["events"], row["p50_s"] or 0.0, row["p99_s"] or 0.0)
