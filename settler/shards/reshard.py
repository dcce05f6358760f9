"""Gives a system another number of shards: drain all, settle all, change the number, open all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from taximeter.settler.books.fingerprint import StreamChanged
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import count_shards, read_mark
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.shards.drain import ShardBusy, drain_shards, guardian_locks
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.rebuild import fence, last_known
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.spread import spread
from taximeter.settler.shards.verdict import is_whole

_SQL: Final = load_queries("guardian")
_PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.05
SHARDS_MAX: Final = 1024

Tell = Callable[[int, int, str], None]
"""Is told how many steps are done, of how many, and what is done now."""


class EventsMissing(Exception):
    """Redis has given numbers to events that it does not have. Rebuild the shard first: that writes
    the loss down. The shards are closed until then, or until the next look of a guardian.
    """


async def reshard(
    stores: Stores,
    wanted: int,
    *,
    wait_s: float,
    force: bool = False,
    tell: Tell = lambda done, total, now: None,
) -> int:
    """Spread all organisations over `wanted` shards; returns how many there were.

    Returns at once when the number is right already. Holds that are still open with `force` go on,
    with what they have reported. Clients and settlers that run learn of the
    new number by themselves. The number changes in one Postgres transaction, before which every
    event is settled: a crash earlier leaves shards that a guardian reopens as they were, a crash
    later ones that it opens at the new number. `tell` is called after each step. Raises
    ShardBusy, HoldsOpen, EventsMissing, ValueError, asyncpg and redis errors.
    """
    if not 1 <= wanted <= SHARDS_MAX:
        raise ValueError(f"shards must be 1 to {SHARDS_MAX}")
    before = await count_shards(stores.pool)
    if before == wanted:
        return before
    if await stores.pool.fetchval(_SQL["is_moving"]):
        raise ShardBusy("an organisation is being moved to another cell; try again")
    everyone = range(before)
    done, steps = 0, 1 + 2 * before + 1 + wanted

    def step(now: str) -> None:
        nonlocal done
        done += 1
        tell(done, steps, now)

    async with guardian_locks(stores, range(max(before, wanted))) as conn:
        await drain_shards(
            *(stores, everyone),
            wait_s=wait_s,
            force=force,
            says=lambda now: tell(0, steps, now),
        )
        step("all shards are drained")
        for shard in everyone:
            reason = f"the system gets {wanted} shards instead of {before}"
            mark = await read_mark(stores.pool, shard)
            seen = await view_shard(stores, shard, mark)
            await fence(stores, mark, seen, reason, whole=is_whole(mark, seen))
            step(f"shard {shard} is closed")
        for shard in everyone:
            await _settle_all(stores, shard)
            step(f"shard {shard} is settled")
        await spread(stores, before, wanted)
        await _change(conn, stores, before, wanted)
        step(f"there are {wanted} shards")
    for shard in range(wanted, before):
        await _leave(stores, shard, wanted)
    for shard in range(wanted):
        await _open(stores, shard, wanted)
        step(f"shard {shard} is open")
    return before


async def _leave(stores: Stores, shard: int, wanted: int) -> None:
    """Forget a shard that is no more: everything in it is settled. What stays is closed, and tells
    clients that still ask there how many shards there are.
    """
    keys = stores.keys(shard)
    async with stores.redis.pipeline(transaction=True) as pipe:
        pipe.unlink(*(key for key in keys.batch() if key != keys.meta))
        pipe.hset(keys.meta, "shards", wanted)
        await pipe.execute()


async def _open(stores: Stores, shard: int, shards: int) -> None:
    """Have a guardian open it, which may be that of a settler."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (await guard(stores, shard, shards)).usable:
        if time.monotonic() > deadline:
            raise TimeoutError(f"shard {shard} was not opened within {_PATIENCE_S:.0f} s")
        await asyncio.sleep(_PAUSE_S)


async def _settle_all(stores: Stores, shard: int) -> None:
    """Settle until nothing is left. Nothing can be appended any more, so this comes to an end."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            result = await settle_shard(stores, shard)
        except StreamChanged as error:
            raise EventsMissing(
                f"{error}: run `taximeter rebuild --shard {shard}` first"
            ) from error
        if result.state == "idle":
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"shard {shard} could not be settled within {_PATIENCE_S:.0f} s")
        if result.state == "busy":
            await asyncio.sleep(_PAUSE_S)
    known = await last_known(stores, shard)
    if known > (result.epoch, result.seq):
        raise EventsMissing(
            f"shard {shard} has settled {result.epoch}-{result.seq}, but Redis has been at"
            f" {known[0]}-{known[1]}: run `taximeter rebuild --shard {shard}` first"
        )


async def _change(conn: Connection, stores: Stores, before: int, wanted: int) -> None:
    """The new number, in one transaction. One epoch above all of them for every shard, so that a
    number of a shard that comes and goes is never used twice.
    """
    async with conn.transaction():
        await conn.execute(_SQL["create_alone"])
        marks = await conn.fetch(_SQL["wait_for_watermarks"])
        if len(marks) != before:
            raise RuntimeError(f"there are {len(marks)} shards now: somebody else resharded")
        epoch = 1 + max(mark["epoch"] for mark in marks)
        await conn.execute(_SQL["remove_shards"], wanted)
        await conn.execute(_SQL["begin_epoch_everywhere"], epoch)
        await conn.execute(_SQL["add_shards"], before, wanted, epoch)
        await conn.execute(_SQL["note_layout"], epoch, wanted)
