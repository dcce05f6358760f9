"""Forgets which requests are charged, generation by generation, once they are old enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from asyncpg import DeadlockDetectedError, LockNotAvailableError

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import unsettled_before
from taximeter.settler.books.stores import Stores

_SQL: Final = load_queries("upkeep")


@dataclass(frozen=True, slots=True)
class Remembering:
    """What became of the generations. `put_away`: a new one was begun. `forgotten`: so many ids.
    `unsettled`: shards whose oldest events may be from before what is due to be forgotten, so that
    nothing was. `in_use`: somebody had the table for too long; the next day tries again.
    """

    put_away: bool = False
    forgotten: int = 0
    unsettled: tuple[int, ...] = ()
    in_use: bool = False


async def forget_request_ids(
    stores: Stores, kept_s: float, *, timeout_s: float = 600.0
) -> Remembering:
    """Put the ids of the last `kept_s` seconds away, and forget those that were put away so long
    ago, which counts them once more and may take `timeout_s`. Durable on return; an id is
    remembered for at least `kept_s`. Raises asyncpg and redis errors, TimeoutError.
    """
    try:
        if await stores.pool.fetchval(_SQL["freeze_charges"], kept_s):
            return Remembering(put_away=True)
        due: datetime | None = await stores.pool.fetchval(_SQL["charges_to_forget"], kept_s)
        if due is None:
            return Remembering()
        unsettled = await unsettled_before(stores.pool, stores.redis, stores.prefix, due)
        if unsettled:
            return Remembering(unsettled=unsettled)
        forgotten = await stores.pool.fetchval(_SQL["forget_charges"], kept_s, timeout=timeout_s)
        return Remembering(forgotten=forgotten or 0)
    except (LockNotAvailableError, DeadlockDetectedError):
        return Remembering(in_use=True)
