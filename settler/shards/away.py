"""Brings what Postgres says of organisations that are away into a shard that is opened anew."""

from __future__ import annotations

from typing import Final

from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Pool

_SQL: Final = load_queries("guardian")


async def read_away(conn: Connection | Pool, shard: int, shards: int) -> dict[str, str]:
    """What is said of each organisation of the shard that is away. Raises asyncpg errors."""
    rows = await conn.fetch(_SQL["organizations_away"])
    return {row["org_id"]: row["said"] for row in rows if shard_of(row["org_id"], shards) == shard}


def away_arguments(away: dict[str, str], departures: int) -> list[str | int]:
    """The same as `open` takes it, with how many departures the shard has to know of."""
    found: list[str | int] = [departures, "", "departures"]
    for org_id, said in away.items():
        found += [org_id, said, "away"]
    return found
