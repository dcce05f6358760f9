"""Reads the watermarks of shards for the guardian."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import asyncpg

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Pool
from taximeter.settler.shards.verdict import Ledger, Mark

_SQL: Final = load_queries("guardian")


async def count_shards(conn: Connection | Pool) -> int:
    """How many shards the system has; 0 before it was first used."""
    return int(await conn.fetchval(_SQL["count_shards"]))


async def read_mark(conn: Connection | Pool, shard: int) -> Mark:
    """The shard as Postgres has it now. Raises LookupError when Postgres has no such shard."""
    return _mark(await conn.fetchrow(_SQL["read_watermark"], shard), shard)


async def lock_mark(conn: Connection, shard: int) -> Mark:
    """The same, waiting for whoever settles it and locked for the caller's transaction."""
    return _mark(await conn.fetchrow(_SQL["lock_watermark"], shard), shard)


async def with_position_now(conn: Connection, mark: Mark) -> Mark:
    """The mark, with how far Postgres has written by now."""
    row = await conn.fetchrow(_SQL["read_ledger"], mark.shard)
    assert row is not None, "its row is locked"
    return replace(mark, ledger=replace(ledger_of(row), settled=mark.seq))


def ledger_of(row: asyncpg.Record) -> Ledger:
    """The ledger of a row that has its figures."""
    return Ledger(row["history"], row["position"], row["seq"], row["step"], tuple(row["tokens"]))


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
    )
