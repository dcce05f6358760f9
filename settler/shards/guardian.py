"""Guards every shard: lets clients in when Redis has what it should have, and rebuilds from
Postgres when it has not.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.installation import MayBeACopy
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.postgres_position import note_position
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import (
    Mark,
    count_shards,
    lock_mark,
    read_mark,
    with_position_now,
)
from taximeter.settler.shards.away import away_arguments, read_away
from taximeter.settler.shards.rebuild import rebuild
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import (
    Action,
    ShardView,
    Verdict,
    is_whole,
    judge,
    superseding,
)

_SQL: Final = load_queries("guardian")
_OPEN: Final = load_script("open")
_APPROVE: Final = load_script("approve")
DOUBTED_MAX: Final = 10_000
"""So many of the latest entries are sent again at most as soon as a server is approved."""


class ShardCountMismatch(Exception):
    """The setting names another number of shards than the system has. Unset it, or give the number
    that exists.
    """


class UnknownDataFormat(Exception):
    """Redis holds data of a release that this one does not understand. Nothing was touched."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the guardian did about a shard. usable: clients may work at `epoch`. lost: events found
    to be lost just now. holds: open holds that a rebuild kept; holds_dropped: those that it could
    not, since nobody knows their account or their record is damaged. displaced: events whose
    numbers Postgres had given to others, and which are settled now.
    """

    shard: int
    usable: bool
    epoch: int
    action: str
    reason: str
    lost: int = 0
    holds: int = 0
    holds_dropped: int = 0
    displaced: int = 0


async def ensure_shards(stores: Stores, wanted: int | None) -> int:
    """How many shards the system has; makes them (1 unless `wanted` says more) when it is fresh.

    Raises ShardCountMismatch when `wanted` differs from what exists. Durable on return; two
    starting at once agree.
    """
    async with stores.pool.acquire() as conn, conn.transaction():
        await conn.execute(_SQL["create_alone"])
        shards = await count_shards(conn)
        if shards == 0:
            shards = wanted or 1
            await conn.execute(_SQL["create_shards"], shards)
    if wanted not in (None, shards):
        raise ShardCountMismatch(
            f"TAXIMETER_SHARDS is {wanted}, but this system was made with {shards} and keeps that "
            f"number"
        )
    return shards


async def guard(
    stores: Stores, shard: int, shards: int, room: AbstractAsyncContextManager[Any] | None = None
) -> Guarded:
    """Look at one shard and do what is needed. Cheap when all is well: one row and one round trip
    to Redis. `room` is entered to do more than look.

    Every step can be cut off anywhere; the next call finishes the work. Only one guardian acts on a
    shard at a time, another one answers that the shard is not usable yet. Raises asyncpg and redis
    errors, UnknownDataFormat, UnsafeServer.
    """
    try:
        mark = await read_mark(stores.pool, shard)
    except LookupError as error:
        return Guarded(shard, False, 0, "waiting", str(error))
    if mark.shards != shards:
        return Guarded(shard, False, mark.epoch, "waiting", f"there are {mark.shards} shards now")
    # Postgres first: Redis can only have moved on since, so an older watermark never looks like a
    # loss.
    seen = await view_shard(stores, shard, mark)
    verdict = judge(mark, seen, shards)
    if verdict.action is Action.LEAVE:
        return await _leave(stores, mark, seen, verdict)
    if verdict.action is Action.NOTHING:
        if mark.ledger is not None and mark.ledger != seen.ledger:
            # Where another one has noted more since, that stands.
            await note_position(stores, shard, mark.epoch, mark.ledger)
        return Guarded(shard, True, mark.epoch, "nothing", verdict.reason)
    async with room or nullcontext(), stores.pool.acquire() as conn:
        if not await conn.fetchval(_SQL["guard_alone"], shard):
            return Guarded(shard, False, mark.epoch, "waiting", "another guardian is at work")
        # The lock belongs to the session: the pool releases it with the connection, also after a
        # crash.
        return await _act(conn, stores, shard, shards)


async def _leave(stores: Stores, mark: Mark, seen: ShardView, verdict: Verdict) -> Guarded:
    """Touch nothing, and have the process connect to the Postgres that was promoted."""
    later = superseding(mark, seen)
    assert later is not None, "or it was no reason to leave"
    await stores.note_history(later)
    return Guarded(mark.shard, False, mark.epoch, "superseded", verdict.reason)


async def _act(conn: Connection, stores: Stores, shard: int, shards: int) -> Guarded:
    """Judge again under the locks, then act."""
    async with conn.transaction():
        mark = await lock_mark(conn, shard)
        if mark.shards != shards:
            return Guarded(
                shard, False, mark.epoch, "waiting", f"there are {mark.shards} shards now"
            )
        seen = await view_shard(stores, shard, mark)
        # Once more after Redis: another guardian may have written a later position meanwhile.
        mark = await with_position_now(conn, mark)
        verdict, start = judge(mark, seen, shards), 0
        if verdict.action is Action.APPROVE:
            start = await conn.fetchval(_SQL["approve_server"], shard, seen.run_id, seen.start)
            await conn.execute(_SQL["doubt_latest_hints"], DOUBTED_MAX)
    if verdict.action is Action.LEAVE:
        return await _leave(stores, mark, seen, verdict)
    if verdict.action is Action.NOTHING:
        return Guarded(shard, True, mark.epoch, "nothing", verdict.reason)
    if verdict.action is Action.REFUSE:
        raise UnknownDataFormat(f"shard {shard}: {verdict.reason}")
    # Nobody is let in on a server that would lose what it is given.
    await stores.check_server(shard)
    if verdict.action is Action.APPROVE:
        # What a server has lost may be known as applied. Nobody says so any more who has asked
        # before this start; the latest entries are sent again, and `fill` compares all accounts.
        await conn.execute(_SQL["let_hints_end"], shard)
        await _APPROVE.call(
            stores.redis,
            [stores.keys(shard).meta],
            [mark.epoch, seen.run_id, seen.replid, start],
        )
        return Guarded(shard, True, mark.epoch, "approved", verdict.reason)
    if verdict.action is Action.OPEN:
        # The server first: a crash in between looks like a loss and is rebuilt, which costs one
        # epoch. The other way round, a database that was replaced could not be told from one that
        # was about to be used.
        await conn.execute(_SQL["approve_server"], shard, seen.run_id, seen.start)
        await _OPEN.call(
            stores.redis,
            stores.keys(shard).batch(),
            [
                *(mark.epoch, shards, seen.run_id, seen.replid, 1, 0),
                *away_arguments(await read_away(conn, shard, shards), mark.departures),
            ],
        )
        return Guarded(shard, True, mark.epoch, "opened", verdict.reason)
    whole = is_whole(mark, seen)
    try:
        done = await rebuild(conn, stores, shard, shards, verdict.reason, whole=whole)
    except MayBeACopy as error:
        return Guarded(shard, False, mark.epoch, "stopped", str(error))
    return Guarded(
        shard,
        True,
        done.epoch,
        "rebuilt",
        verdict.reason,
        done.lost,
        done.holds,
        done.dropped,
        done.displaced,
    )
