"""Brings what closed shards know of requests to the shards that will be asked for it, before their
number changes.
"""

from __future__ import annotations

from typing import Any, Final

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.carried_holds import read_holds
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import ShardView

_FIELDS_PER_CALL: Final = 1_000


async def spread(stores: Stores, before: int, wanted: int) -> None:
    """Copy open holds, deadlines and outcomes to where `wanted` shards look for them.

    All shards are closed. Nothing is removed where it was, so the old number goes on being true
    until Postgres says the new one. Every hold gets one number of start for all shards if what it
    has reported counts, else 0: the same number is written into every meta. Can be repeated. Raises
    redis errors.
    """
    for shard in range(before, wanted):
        keys = stores.keys(shard)
        await stores.redis.unlink(*(key for key in keys.batch() if key != keys.events))
    found: list[tuple[ShardKeys, ShardView, bool, dict[str, HoldRecord]]] = []
    for shard in range(before):
        keys = stores.keys(shard)
        seen = await view_shard(stores, shard)
        whole = seen.is_approved_server and seen.meta.get("fenced_whole") == "1"
        holds, _ = await read_holds(stores, keys)
        home = {
            key: hold
            for key, hold in holds.items()
            if shard_of(key.partition("/")[0], before) == shard
        }
        found.append((keys, seen, whole, home))
    start = 1 + max(
        max([seen.start, *(hold.start or 0 for hold in holds.values())])
        for _, seen, _, holds in found
    )
    for keys, seen, whole, holds in found:
        await _copy_holds(stores, keys, wanted, holds, seen.start, start if whole else 0)
        if whole:
            await _copy_outcomes(stores, keys, wanted)
        else:
            await stores.redis.unlink(keys.outcomes, keys.outcomes_old)
    for shard in range(max(before, wanted)):
        seen = await view_shard(stores, shard)
        noted: dict[str, str | int] = {
            "epoch": "fenced",
            "fenced_reason": f"the system gets {wanted} shards instead of {before}",
            "fenced_whole": 1,
            "run_id": seen.run_id,
            "replid": seen.replid,
            "start": start,
        }
        await stores.redis.hset(stores.keys(shard).meta, mapping=noted)


async def _copy_holds(
    stores: Stores,
    keys: ShardKeys,
    wanted: int,
    holds: dict[str, HoldRecord],
    counted: int,
    start: int,
) -> None:
    """`counted`: the start under which something was last reported that still counts."""
    names = list(holds)
    for first in range(0, len(names), _FIELDS_PER_CALL):
        page = names[first : first + _FIELDS_PER_CALL]
        async with stores.redis.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.zscore(keys.deadlines, key)
            scores = await pipe.execute()
        by_shard: dict[int, list[tuple[str, float]]] = {}
        for key, score in zip(page, scores, strict=True):
            to = shard_of(key.partition("/")[0], wanted)
            by_shard.setdefault(to, []).append((key, score if score is not None else 0))
        for shard, found in by_shard.items():
            there = stores.keys(shard)
            async with stores.redis.pipeline(transaction=True) as pipe:
                for key, score in found:
                    hold = holds[key]
                    still = (hold.start or 0) == counted
                    moved = hold._replace(start=start if still else 0)
                    pipe.hset(there.holds, key, moved.text())
                    pipe.zadd(there.deadlines, {key: score})
                await pipe.execute()


async def _copy_outcomes(stores: Stores, keys: ShardKeys, wanted: int) -> None:
    for name in ("outcomes", "outcomes_old"):
        cursor = 0
        while True:
            cursor, page = await stores.redis.hscan(
                getattr(keys, name), cursor, count=_FIELDS_PER_CALL
            )
            by_key: dict[str, dict[Any, Any]] = {}
            for key, outcome in page.items():
                to = stores.keys(shard_of(key.decode().partition("/")[0], wanted))
                if to != keys:
                    by_key.setdefault(getattr(to, name), {})[key] = outcome
            for target, outcomes in by_key.items():
                await stores.redis.hset(target, mapping=outcomes)
            if cursor == 0:
                break
