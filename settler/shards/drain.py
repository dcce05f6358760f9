"""Closes a shard on purpose: no credit is taken until every open hold has ended, then nothing is.

What the guardian does to a shard that has lost data, an operator can ask for: to bring a shard back
from Postgres (`rebuild_on_demand`), or as the first step of another number of shards (`reshard`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import read_mark
from taximeter.settler.shards.admission import drain, end_drain
from taximeter.settler.shards.rebuild import rebuild
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import is_whole

_SQL: Final = load_queries("guardian")
_PAUSE_S: Final = 0.05
# Longer than the wait, so that a drain never ends by itself under the one who waits; if that one
# dies, credit is taken again after this much more.
_DRAIN_MARGIN_S: Final = 30.0


Says = Callable[[str], None]
"""Is told what is done now, in a few words for people."""


def say_nothing(_: str) -> None:
    """For who looks at no screen."""


class ShardBusy(Exception):
    """Another guardian, or another maintenance, is at work on the shard. Nothing was done."""


class HoldsOpen(Exception):
    """Holds were still open when the wait was over; credit is taken again and nothing was done.

    Closing the shard all the same would make their ends wait for about a second.
    """

    def __init__(self, holds: int, wait_s: float) -> None:
        super().__init__(f"{holds} holds were still open after {wait_s:g} s")
        self.holds = holds


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A shard that was brought back. holds_kept: open holds that went on; holds_dropped: those that
    nobody can go on with, since their record is damaged or Postgres does not know their account.
    """

    shard: int
    epoch: int
    lost: int
    holds_kept: int
    holds_dropped: int


async def rebuild_on_demand(
    stores: Stores,
    shard: int,
    *,
    reason: str,
    wait_s: float,
    force: bool = False,
    says: Says = say_nothing,
) -> Rebuilt:
    """Drain the shard, settle everything, and open it at a new epoch with balances from Postgres.

    With `force`, holds that are still open after `wait_s` go on in the new epoch, with what they
    have reported if Redis is whole; their commits meet a closed shard for about a second. A crash
    on the way leaves a shard that is drained (it takes credit again by itself) or closed (the next
    guardian brings it back). Raises ShardBusy, HoldsOpen, LookupError (no such shard),
    TimeoutError, asyncpg and redis errors.
    """
    mark = await read_mark(stores.pool, shard)
    await stores.check_server(shard)
    async with guardian_locks(stores, [shard]) as conn:
        await drain_shards(stores, [shard], wait_s=wait_s, force=force, says=says)
        says("balances come from Postgres")
        mark = await read_mark(stores.pool, shard)
        whole = is_whole(mark, await view_shard(stores, shard, mark))
        done = await rebuild(conn, stores, shard, mark.shards, reason, whole=whole)
    return Rebuilt(shard, done.epoch, done.lost, done.holds, done.dropped)


@asynccontextmanager
async def guardian_locks(stores: Stores, shards: Sequence[int]) -> AsyncIterator[Connection]:
    """A connection that holds the guardian's lock of each shard. Raises ShardBusy."""
    async with stores.pool.acquire() as conn:
        for shard in shards:
            # The pool gives the locks of a session back with its connection.
            if not await conn.fetchval(_SQL["guard_alone"], shard):
                raise ShardBusy(f"a guardian is at work on shard {shard}; try again")
        yield conn


async def drain_shards(
    stores: Stores,
    shards: Sequence[int],
    *,
    wait_s: float,
    force: bool,
    says: Says = say_nothing,
) -> int:
    """Drain these shards until no hold is open in any of them; returns how many are left.

    That is 0 unless `force`. A shard that is closed already has nothing to drain. Raises HoldsOpen
    after `wait_s`. Whatever it raises, also when it is cancelled, has ended the drain where Redis
    answers; what a kill leaves behind the settler ends half a minute after `wait_s`.
    """
    open_at: dict[int, int] = {}
    try:
        for shard in shards:
            epoch = (await view_shard(stores, shard)).meta.get("epoch", "")
            if epoch.isdigit():
                open_at[shard] = int(epoch)
                await drain(stores, shard, int(epoch), wait_s + _DRAIN_MARGIN_S)
        deadline = time.monotonic() + wait_s
        while True:
            holds = [await stores.redis.hlen(stores.keys(shard).holds) for shard in open_at]
            left = int(sum(holds))
            if left == 0 or (force and time.monotonic() >= deadline):
                return left
            if time.monotonic() >= deadline:
                raise HoldsOpen(left, wait_s)
            says(f"{left:,} holds are open, {max(deadline - time.monotonic(), 0):.0f} s to wait")
            await asyncio.sleep(_PAUSE_S)
    except BaseException:
        for shard, epoch_then in open_at.items():
            await _end_drain(stores, shard, epoch_then)
        raise


async def _end_drain(stores: Stores, shard: int, epoch: int) -> None:
    # Somebody may have closed the shard meanwhile: then there is no drain to end. Without Redis it
    # ends by itself.
    with suppress(RedisError, OSError):
        await end_drain(stores, shard, epoch)
