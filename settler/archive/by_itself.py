"""Archives old months without anybody asking: one at a time, by one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any, Final

import asyncpg
from redis.exceptions import RedisError

from taximeter.settler.archive.manifest import Part
from taximeter.settler.archive.months import (
    NotArchived,
    archive_month,
    bounds,
    last_month,
    take_turn,
)
from taximeter.settler.archive.places import Place
from taximeter.settler.archive.writing import SIZES, SQL, Sizes
from taximeter.settler.books.connections import Session, primary_of
from taximeter.settler.books.shard_reads import unsettled_before
from taximeter.settler.books.stores import Session as Conn

TIMEOUT_S: Final = 86_400.0
"""Of one statement, and of one month."""


def first_kept(today: date, keep: int) -> date:
    """The first month that stays when `keep` whole ones stay beside this one."""
    kept = last_month(today)
    for _ in range(keep - 1):
        kept = (kept - timedelta(days=1)).replace(day=1)
    return kept


def is_within(hours: str, at: datetime) -> bool:
    """Whether this time is within hours of the day, such as `1-5` or, over midnight, `22-4`."""
    begin, end = map(int, hours.split("-"))
    return begin <= at.hour < end if begin < end else at.hour >= begin or at.hour < end


async def refuse_in_use(conn: Conn, redis: Any, prefix: str, month: date) -> None:
    """Raise NotArchived while events of the month may wait to be settled. Raises asyncpg errors."""
    try:
        waiting = await unsettled_before(conn, redis, prefix, bounds(month)[1])
    except (RedisError, OSError) as error:
        raise NotArchived(
            f"{month:%Y-%m}: whether events of it wait to be settled is not known: Redis does not"
            f" answer ({error})"
        ) from error
    if waiting:
        shards = ", ".join(map(str, waiting))
        raise NotArchived(
            f"{month:%Y-%m} is in use: events of it may wait to be settled (shard {shards}); start"
            " a settler, and try again"
        )


@asynccontextmanager
async def archiving(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session for archives, on the server that takes writes, whose statements may take a day.
    `database_url` is that of the owner of the tables. Raises asyncpg errors, OSError.
    """
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        await primary_of(database_url),
        timeout=10,
        connection_class=Session,
        command_timeout=TIMEOUT_S,
        server_settings={
            "application_name": "taximeter-archive",
            "timezone": "UTC",
            # Whatever its database or roles are set to: what is dropped is known to be dropped.
            "synchronous_commit": "on",
        },
    )
    try:
        yield conn
    except asyncio.CancelledError:
        # Not waited for: its session ends with its connection.
        conn.terminate()
        raise
    finally:
        await conn.close(timeout=10)


async def archive_oldest(
    database_url: str,
    redis: Any,
    prefix: str,
    place: Place,
    *,
    keep: int,
    hours: str,
    sizes: Sizes = SIZES,
) -> Part | None:
    """Archive the oldest month that is due, by the clock of Postgres: `keep` whole months stay
    beside this one. None when none is, or it is outside of these hours of the day (UTC).

    `database_url` is that of the owner of the tables. Durable on return; cut off anywhere, the next
    call goes on. Raises NotArchived for a month that cannot go now, or while somebody else is at
    it, ArchiveError, asyncpg errors, OSError.
    """
    async with archiving(database_url) as conn:
        now: datetime = await conn.fetchval("SELECT now()")
        if not is_within(hours, now):
            return None
        found = await conn.fetch(SQL["months"])
        due = [row["month"] for row in found if row["month"] < first_kept(now.date(), keep)]
        if not due:
            return None
        await take_turn(conn)
        await refuse_in_use(conn, redis, prefix, due[0])
        return await archive_month(conn, place, due[0], sizes)
