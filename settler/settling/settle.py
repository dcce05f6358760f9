"""Books a contiguous run of events in one Postgres transaction, and moves the watermark past it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import asyncpg

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.postgres_position import make_step
from taximeter.settler.books.retries import retry_transient
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import lock_mark_if_free
from taximeter.settler.settling.copy_rows import CopyRows
from taximeter.settler.settling.event_rows import book_copy_rows, book_events, write_dead_letters
from taximeter.settler.settling.events import BadLine
from taximeter.settler.settling.read_ahead import Reader
from taximeter.settler.settling.stream import Run

_SQL: Final = load_queries("settle")
_BACKOFF_FIRST_S: Final = 0.02
_BACKOFF_MAX_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling came to. `idle`: nothing was there; `busy`: another worker has the shard;
    counts are of events.
    """

    shard: int
    state: Literal["idle", "busy", "settled"]
    epoch: int = 0
    seq: int = 0
    settled: int = 0
    dead: int = 0
    lost: int = 0


Booked = Callable[[Run, Settled, float], None]
"""Told of a run when the transaction that has booked it is committed, and when that had begun."""


async def settle_once(
    stores: Stores,
    shard: int,
    *,
    batch_events: int = 20_000,
    attempts: int = 5,
    booked: Booked | None = None,
) -> Settled:
    """Settle at most about `batch_events` events of a shard.

    On return everything reported is durable in Postgres. A crash anywhere leaves all of the batch
    or none of it, and the next call goes on from the watermark. Any number of these may run at
    once. Raises asyncpg and redis errors, StreamChanged; deadlocks and the like are retried
    `attempts` times in all.
    """
    reader = Reader(stores, shard, batch_events)
    return await _with_retries(stores, shard, reader, False, attempts, booked)


async def settle_shard(
    stores: Stores,
    shard: int,
    *,
    batch_events: int = 20_000,
    attempts: int = 5,
    budget_s: float = 5.0,
    closed: bool = False,
    booked: Booked | None = None,
) -> Settled:
    """Settle batch after batch until nothing is left, another worker has the shard, or `budget_s`
    has passed. The next batch is read while one is booked. `closed`: a guardian asks, for a shard
    that it has closed, whichever server its data is of.

    Returns the sum; its state is that of the last batch.
    """
    started = time.monotonic()
    total = Settled(shard, "idle")
    reader = Reader(stores, shard, batch_events, closed=closed)
    try:
        while True:
            one = await _with_retries(stores, shard, reader, True, attempts, booked)
            total = replace(
                one,
                settled=total.settled + one.settled,
                dead=total.dead + one.dead,
                lost=total.lost + one.lost,
            )
            if one.state != "settled" or time.monotonic() - started > budget_s:
                return total
    finally:
        await reader.close()


async def _with_retries(
    stores: Stores,
    shard: int,
    reader: Reader,
    ahead: bool,
    attempts: int,
    booked: Booked | None,
) -> Settled:
    async def once() -> Settled:
        started = time.perf_counter()
        async with stores.pool.acquire() as conn, conn.transaction(isolation="read_committed"):
            done, run = await _settle(conn, shard, reader, ahead)
        if booked is not None and run is not None:
            booked(run, done, started)
        return done

    return await retry_transient(
        once, attempts=attempts, first_s=_BACKOFF_FIRST_S, max_s=_BACKOFF_MAX_S
    )


async def _settle(
    conn: Connection, shard: int, reader: Reader, ahead: bool
) -> tuple[Settled, Run | None]:
    """What it came to, and the run that was booked, if any was."""
    await conn.execute(_SQL["mark_settling"])
    mark = await lock_mark_if_free(conn, shard)
    if mark is None:
        return Settled(shard, "busy"), None
    # Under the lock: the guardian takes it too before it trusts a restarted server, so a run that
    # was read from the server before can never be booked after that.
    run, rows = await reader.take(mark)
    if run.empty:
        return Settled(shard, "idle", mark.epoch, mark.seq), None
    if ahead and run.full:
        reader.read_next(mark, run)
    return await write_run(conn, shard, run, rows), run


async def write_run(
    conn: Connection, shard: int, run: Run, rows: CopyRows | None = None
) -> Settled:
    """Book a run and move the watermark from its start to its end, in the caller's transaction.

    `rows` is the run as COPY text; without it, or when Postgres refuses that, each line is looked
    at on its own.
    """
    dead: list[BadLine] = []
    if rows is not None and rows.events and await book_copy_rows(conn, rows):
        settled = rows.events
    else:
        events, bad_lines = run.parse()
        dead = bad_lines + await book_events(conn, shard, run.epoch, events)
        settled = len(events) + len(bad_lines) - len(dead)
    await write_dead_letters(conn, shard, run.epoch, dead)
    if run.holes:
        firsts, lasts = [hole[0] for hole in run.holes], [hole[1] for hole in run.holes]
        await conn.execute(_SQL["insert_lost"], shard, run.epoch, firsts, lasts)
    counts = (settled, len(dead), run.lost)
    await conn.execute(
        _SQL["insert_batch"], shard, run.epoch, run.after_seq + 1, run.last_seq, *counts
    )
    moved = await conn.execute(
        _SQL["move_watermark"],
        shard,
        run.epoch,
        run.after_seq,
        run.last_seq,
        *counts,
        run.last_time,
        run.fingerprint,
    )
    # Last, since who relays entries waits for this row, and for nothing else of a settle.
    await make_step(conn, shard)
    if moved != "UPDATE 1":
        raise asyncpg.SerializationError(f"the watermark of shard {shard} moved under its lock")
    return Settled(shard, "settled", run.epoch, run.last_seq, *counts)
