"""Reads and locks the watermarks of shards: up to where each is settled, and on which server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from taximeter.settler.books.fingerprint import applies
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.postgres_position import Ledger, ledger_of
from taximeter.settler.books.stores import Connection, Pool

_SQL: Final = load_queries("guardian")


@dataclass(frozen=True, slots=True)
class Mark:
    """A shard as Postgres has it: what is settled up to (epoch, seq), on which approved server
    (run_id is None until there was one) at which of its starts, and how many shards there are.
    `ledger` is read where Redis is judged by it. `departures`: how often an organisation of it was
    closed for a move to another cell, or came from one.
    """

    shard: int
    epoch: int
    seq: int
    run_id: str | None
    shards: int = 1
    ledger: Ledger | None = None
    settled_entry: str | None = None
    starts: int = 0
    history: str | None = None
    """Of the Postgres that says so, where the caller is to settle."""
    departures: int = 0

    @property
    def settled_fingerprint(self) -> str | None:
        """The fingerprint of the entry that was settled last, None when it is not known."""
        known = applies(self.settled_entry, self.epoch, self.seq)
        return self.settled_entry if known else None


async def count_shards(conn: Connection | Pool) -> int:
    """How many shards the system has; 0 before it was first used."""
    return int(await conn.fetchval(_SQL["count_shards"]))


async def read_mark(conn: Connection | Pool, shard: int) -> Mark:
    """The shard as Postgres has it now. Raises LookupError when Postgres has no such shard."""
    return _mark(await conn.fetchrow(_SQL["read_watermark"], shard), shard)


async def lock_mark(conn: Connection, shard: int) -> Mark:
    """The same, waiting for whoever settles it and locked for the caller's transaction."""
    return _mark(await conn.fetchrow(_SQL["wait_for_watermark"], shard), shard)


async def read_marks(conn: Connection | Pool) -> dict[int, Mark]:
    """Every shard by its number, without ledgers; none before the system was first used."""
    rows = await conn.fetch(_SQL["read_watermarks"])
    return {
        row["shard"]: Mark(
            row["shard"],
            row["epoch"],
            row["seq"],
            row["run_id"],
            len(rows),
            settled_entry=row["settled_entry"],
            starts=row["starts"],
            departures=row["departures"],
        )
        for row in rows
    }


async def read_position(conn: Connection | Pool, shard: int) -> tuple[int, int] | None:
    """(epoch, seq) up to which the shard is settled; None when there is no such shard."""
    row = await conn.fetchrow(_SQL["read_position"], shard)
    return None if row is None else (row["epoch"], row["seq"])


async def lock_mark_if_free(conn: Connection, shard: int) -> Mark | None:
    """The right to settle the shard, for the caller's transaction; None when another worker has it
    or there is no such shard.
    """
    row = await conn.fetchrow(_SQL["lock_watermark_if_free"], shard)
    if row is None:
        return None
    return Mark(
        shard,
        row["epoch"],
        row["seq"],
        row["run_id"],
        settled_entry=row["settled_entry"],
        starts=row["starts"],
        history=row["history"],
    )


async def with_position_now(conn: Connection, mark: Mark) -> Mark:
    """The mark, with how far Postgres has written by now."""
    row = await conn.fetchrow(_SQL["read_ledger"], mark.shard)
    assert row is not None, "its row is locked"
    return replace(mark, ledger=replace(ledger_of(row), settled=mark.seq))


def _mark(row: asyncpg.Record | None, shard: int) -> Mark:
    if row is None:
        raise LookupError(f"Postgres has no shard {shard}: its watermark is missing")
    return Mark(
        row["shard"],
        row["epoch"],
        row["seq"],
        row["run_id"],
        row["shards"],
        ledger_of(row),
        row["settled_entry"],
        row["starts"],
        departures=row["departures"],
    )
