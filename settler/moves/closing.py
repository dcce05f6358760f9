"""Closes allocations of members who left, and of those that have expired, while their requests are
still running.

What is free goes back to the pool at once, by moves; what open requests hold goes back as it
becomes free, or is charged. The allocation stays open until nothing is left, so that every charge
of those requests is paid by it, and each credit returns exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast
from uuid import UUID

import asyncpg
import structlog

from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.moves.live_hold import is_loaded, mark_of, movable
from taximeter.settler.moves.moves import LiveSideAway, ask_live_side, move
from taximeter.settler.moves.records import Kind, Request
from taximeter.settler.moves.relay import bring_up_to_date

_SQL: Final = load_queries("moves")
_PAGE: Final = 500
# A user who keeps spending can win against a reading of the balance; the next run goes on.
_TRIES: Final = 10

log = structlog.get_logger("taximeter.settler")


@dataclass(frozen=True, slots=True)
class Closing:
    """An allocation that is to be closed, and why: `removal` or `expiry`."""

    allocation_id: UUID
    org_id: str
    user_id: str
    why: Kind

    @property
    def account(self) -> Account:
        """Its account."""
        return self.org_id, self.user_id


@dataclass(slots=True)
class Closed:
    """What one run came to. Millicredits; counts are of allocations."""

    renewed: int = 0
    not_renewed: int = 0
    begun: int = 0
    returned: int = 0
    emptied: int = 0


async def begin_removal(conn: Connection, org_id: str, user_id: str) -> Closing | None:
    """Mark the active allocation of a member who leaves, in the caller's transaction; None without
    one, or when nothing was left and it is closed already.
    """
    row = await conn.fetchrow(_SQL["begin_closing"], org_id, user_id)
    if row is None or row["became"] == "closed":
        return None
    return Closing(UUID(int=row["id"].int), org_id, user_id, "removal")


async def take_back(
    stores: Stores, closing: Closing, actor: str, request_id: str | None = None
) -> int:
    """Return to the pool what is free in an allocation that is being closed; millicredits.
    `request_id` goes to the audit log.

    What was returned is durable. Raises LiveSideAway, asyncpg errors; `close_all` goes on later.
    """
    mark = await ask_live_side(mark_of(stores, closing.org_id))
    await ask_live_side(bring_up_to_date(stores, mark, [closing.account]))
    returned = 0
    if await ask_live_side(is_loaded(stores, mark, closing.account)):
        for _ in range(_TRIES):
            amount = await ask_live_side(movable(stores, mark, closing.account))
            if amount == 0:
                break
            ended = await move(
                stores,
                Request(
                    closing.org_id,
                    closing.why,
                    closing.user_id,
                    amount,
                    actor,
                    allocation_id=closing.allocation_id,
                    request_id=request_id,
                ),
            )
            if ended.state == "done":
                returned += ended.amount
    return returned


async def expire(stores: Stores, at: datetime, most: int, done: Closed) -> None:
    """Renew, or begin to close, at most `most` allocations that have expired at `at`, into `done`.
    Raises asyncpg errors.
    """
    async with stores.pool.acquire() as conn, conn.transaction():
        rows = await conn.fetch(_SQL["begin_expiry"], at, most)
    for row in rows:
        done.renewed += row["became"] == "renewed"
        done.begun += row["became"] != "renewed"
        done.not_renewed += row["not_renewed"]
        if row["not_renewed"]:
            log.warning("not_renewed", org_id=row["org_id"], user_id=row["user_id"])


async def close_all(stores: Stores, done: Closed) -> None:
    """Take back what is free in every allocation that is being closed, and close those that are
    empty, into `done`.

    Any number of these may run at once; a crash anywhere leaves work for the next run and returns
    nothing twice. An organisation whose shard cannot be asked is passed over. Raises asyncpg
    errors.
    """
    after: Account = ("", "")
    while True:
        rows = await stores.pool.fetch(_SQL["closing"], *after, _PAGE)
        for row in rows:
            done.returned += await _take_back(stores, row)
        if len(rows) < _PAGE:
            break
        after = (rows[-1]["org_id"], rows[-1]["user_id"])
    done.emptied += int(await stores.pool.fetchval(_SQL["close_emptied"]))


async def _take_back(stores: Stores, row: asyncpg.Record) -> int:
    why = cast(Kind, row["closing"])
    closing = Closing(UUID(int=row["id"].int), row["org_id"], row["user_id"], why)
    try:
        return await take_back(stores, closing, f"taximeter:{why}")
    except LiveSideAway as error:
        log.warning("closing", org_id=closing.org_id, live_side_away=str(error)[:200])
        return 0
