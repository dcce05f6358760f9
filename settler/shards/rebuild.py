"""Rebuilds a shard whose Redis data is lost or in doubt: close, settle what is left, write down
what is lost, reopen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.installation import MayBeACopy, note_redis
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import read_uncharged
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.timelines import superseded
from taximeter.settler.books.watermarks import Mark, lock_mark, read_mark
from taximeter.settler.settling.displaced import settle_displaced
from taximeter.settler.settling.events import parse_id
from taximeter.settler.settling.settle import settle_shard, write_run
from taximeter.settler.settling.stream import Run, read_run
from taximeter.settler.shards.carried_holds import carry_holds
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import (
    ShardView,
    has_been_used,
    is_of_another_history,
    knows,
    superseding,
)

_SQL: Final = load_queries("guardian")
_SETTLE: Final = load_queries("settle")
_OPEN: Final = load_script("open")
_FENCE: Final = load_script("fence")
_PATIENCE_S: Final = 20.0
_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Reopened:
    """A shard that was brought back: its new epoch, events found to be lost, open holds that it
    kept and those that it could not keep, and events that were settled though Postgres had given
    their numbers to others.
    """

    epoch: int
    lost: int
    holds: int
    dropped: int
    displaced: int


async def rebuild(
    conn: Connection, stores: Stores, shard: int, shards: int, reason: str, *, whole: bool
) -> Reopened:
    """Bring the shard back at a new epoch, with its open holds. `whole` says that Redis has lost
    nothing, so that what they have reported still counts.

    The caller holds the guardian's lock. Each step leaves a state from which a new call goes on: a
    closed shard stays closed until `open`, settled events stay settled, and an epoch that was begun
    but never opened is passed over. Raises MayBeACopy, and then nothing was settled or opened,
    TimeoutError when other workers keep the shard busy, SupersededPostgres, asyncpg and redis
    errors.
    """
    keys = stores.keys(shard)
    # A guardian before this one may have begun an epoch, frozen, and wake to open it.
    begun = await read_mark(conn, shard)
    seen = await view_shard(stores, shard)
    refuse_old_primary(begun, seen)
    # Before anybody is let in: a copy that was restored elsewhere must tell nobody anything, and
    # take nothing from anybody.
    assert begun.ledger is not None, "it was read with its ledger"
    may_open = await note_redis(
        *(conn, stores),
        history=begun.ledger.history,
        known=knows(begun, seen),
        used=has_been_used(begun),
    )
    if not may_open:
        why = "this may be a copy: say what it is by `taximeter restored`"
        if not seen.meta:  # What has data may be at work with the original.
            await fence(stores, begun, seen, why, whole=False)
        raise MayBeACopy(why)
    await fence(stores, begun, seen, reason, whole=whole)
    deadline = time.monotonic() + _PATIENCE_S
    epoch: int | None = None
    lost = displaced = 0
    mark = await read_mark(stores.pool, shard)
    if is_of_another_history(mark, await view_shard(stores, shard, mark)):
        known_epoch, known_seq = await last_known(stores, shard)
        other = await settle_displaced(
            conn, stores, shard, known_seq if known_epoch == mark.epoch else 0
        )
        displaced, lost = other.events, other.lost
        await _count_uncharged(stores, shard, other.unpaid.values())
    while epoch is None:
        # Nothing can be appended any more, so this comes to an end.
        result = await settle_shard(stores, shard, closed=True)
        lost += result.lost
        if result.state == "idle":
            epoch, found = await _finish_epoch(conn, stores, shard)
            lost += found
        if epoch is None and time.monotonic() > deadline:
            raise TimeoutError(f"shard {shard} could not be settled within {_PATIENCE_S:.0f} s")
        if result.state == "busy":
            await asyncio.sleep(_PAUSE_S)
    seen = await view_shard(stores, shard)
    refuse_old_primary(begun, seen)
    # Whoever closed it first has written down whether it was whole; a restart since ends that.
    whole = seen.is_approved_server and seen.meta.get("fenced_whole") == "1"
    carried = await carry_holds(stores, shard, shards, seen, whole)
    await conn.execute(_SQL["approve_server"], shard, seen.run_id, carried.start)
    await _OPEN.call(
        stores.redis,
        keys.batch(),
        [epoch, shards, seen.run_id, seen.replid, carried.start, int(whole), *carried.accounts],
    )
    return Reopened(epoch, lost, carried.kept, carried.dropped, displaced)


async def fence(stores: Stores, mark: Mark, seen: ShardView, reason: str, *, whole: bool) -> None:
    """Close the shard for this Postgres, whose mark that is: from then on an older primary of the
    same data touches nothing. Raises SupersededPostgres, redis errors.
    """
    refuse_old_primary(mark, seen)
    history = "" if mark.ledger is None else mark.ledger.history
    await _FENCE.call(
        stores.redis,
        [stores.keys(mark.shard).meta],
        [reason[:200], int(whole), mark.epoch, history],
    )


def refuse_old_primary(mark: Mark, seen: ShardView) -> None:
    """Raise SupersededPostgres when the shard has been seen with a Postgres that was promoted after
    this one.
    """
    later = superseding(mark, seen)
    if mark.ledger is not None and later is not None:
        raise superseded(mark.ledger.history, later)


async def _count_uncharged(stores: Stores, shard: int, amounts: Collection[int]) -> None:
    """As a sweep counts what expires unpaid. The shard is closed: nobody else writes it."""
    if amounts:
        holds, amount = await read_uncharged(stores, shard)
        counts = {
            "uncharged_holds": holds + len(amounts),
            "uncharged_amount": amount + sum(amounts),
        }
        await stores.redis.hset(stores.keys(shard).meta, mapping=counts)


async def _finish_epoch(conn: Connection, stores: Stores, shard: int) -> tuple[int | None, int]:
    """Account for the rest of the watermark's epoch and begin the next one, in one transaction.

    Returns (the epoch to open, lost), or (None, lost) when there are more events to settle first:
    some came in between, or the stream has a later epoch than Postgres, which happens when Postgres
    was restored from an older backup.
    """
    keys = stores.keys(shard)
    async with conn.transaction():
        await conn.execute(_SETTLE["mark_settling"])
        mark = await lock_mark(conn, shard)
        epoch, seq = mark.epoch, mark.seq
        if not (await read_run(stores.redis, keys, epoch, seq, 1)).empty:
            return None, 0
        known_epoch, known_seq = await last_known(stores, shard)
        lost = 0
        if known_epoch == epoch and known_seq > seq:
            # Redis gave these numbers and does not have the events.
            run = Run(epoch, seq, known_seq, holes=[(seq + 1, known_seq)])
            lost = (await write_run(conn, shard, run)).lost
        later = await stores.redis.xrange(keys.events, f"{epoch + 1}-0", "+", count=1)
        if later:
            later_epoch = parse_id(later[0][0])[0]
        elif known_epoch > epoch and known_seq > 0:
            later_epoch = known_epoch
        else:
            begun = max(epoch, known_epoch) + 1
            await conn.execute(_SQL["begin_epoch"], shard, begun, None)
            return begun, lost
        await conn.execute(_SQL["begin_epoch"], shard, later_epoch, None)
        return None, lost


async def last_known(stores: Stores, shard: int) -> tuple[int, int]:
    """The highest (epoch, seq) that Redis remembers to have given; (0, 0) when it remembers
    nothing.

    Meta and the stream's last id can differ when one of them was damaged; the greater one bounds
    what may be lost.
    """
    keys = stores.keys(shard)
    fields = await stores.redis.hmget(keys.meta, "epoch", "fenced_epoch", "seq")
    epoch_text, fenced_text, seq_text = (value or b"" for value in fields)
    epoch = int(fenced_text) if fenced_text.isdigit() else 0
    if epoch_text.isdigit():
        epoch = int(epoch_text)
    known = (epoch, int(seq_text) if seq_text.isdigit() else 0)
    if await stores.redis.exists(keys.events):
        stream = await stores.redis.execute_command("XINFO STREAM", keys.events)
        known = max(known, parse_id(stream["last-generated-id"]))
    return known
