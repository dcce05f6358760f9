"""Closes allocations of members who left, and of those that have expired, while their requests are
still running.

What is free goes back to the pool at once, by moves; what open requests hold goes back as it
becomes free, or is charged. The allocation stays open until nothing is left, so that every charge
of those requests is paid by it, and each credit returns exactly once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast
from uuid import UUID

import asyncpg
import structlog

from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Pool, Stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.moves.live_hold import is_loaded, mark_of, movable
from taximeter.settler.moves.moves import LiveSideAway, ask_live_side, is_silent, move
from taximeter.settler.moves.records import Kind, Request
from taximeter.settler.moves.relay import bring_up_to_date

_SQL: Final = load_queries("moves")
_PAGE: Final = 500
BATCH: Final = 200
"""How many members and allocations end in one transaction."""
_ENDINGS_AT_ONCE: Final = 20
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


async def end_accounts(pool: Pool | Connection, org_id: str, *, batches: int = 1) -> bool:
    """End people and allocations of an organisation that was deleted, at most `batches` times
    BATCH; whether there may be more. Each batch is durable by itself, so that nobody waits for all
    of them, and whoever comes next goes on. Raises asyncpg errors.
    """
    for _ in range(batches):
        if not await pool.fetchval(_SQL["end_accounts"], org_id, BATCH):
            return False
    return True


async def go_on_ending(stores: Stores) -> int:
    """One batch of each organisation that was deleted; how many have more. Raises asyncpg
    errors.
    """
    more = 0
    for row in await stores.pool.fetch(_SQL["endings"], _ENDINGS_AT_ONCE):
        more += await end_accounts(stores.pool, row["org_id"])
    return more


@dataclass(slots=True)
class Turn:
    """How far a round of `close_all` has come: the last organisation, and the last user of each
    that has more. The next round goes on there.
    """

    org_id: str = ""
    users: dict[str, str] = field(default_factory=dict)


async def close_all(
    stores: Stores, done: Closed, turn: Turn | None = None, *, budget_s: float | None = None
) -> None:
    """Take back what is free in every allocation that is being closed, and close those that are
    empty, into `done`: a page of each organisation in turn. With a budget it ends after that, and
    `turn` says where the next round goes on.

    Any number of these may run at once; a crash anywhere leaves work for the next run and returns
    nothing twice. An organisation whose shard cannot be asked is passed over, and so are all of a
    server that did not answer. Raises asyncpg errors.
    """
    turn = Turn() if turn is None else turn
    ends = None if budget_s is None else time.monotonic() + budget_s
    shards, silent = await count_shards(stores.pool), set[str]()
    more = True
    while more:
        more = False
        org_ids = [row["org_id"] for row in await stores.pool.fetch(_SQL["organizations_closing"])]
        turn.users = {org_id: turn.users[org_id] for org_id in org_ids if org_id in turn.users}
        for org_id in sorted(org_ids, key=lambda one: (one <= turn.org_id, one)):
            server = stores.server_name(shard_of(org_id, max(1, shards)))
            rows = await stores.pool.fetch(
                _SQL["closing"], org_id, turn.users.pop(org_id, ""), _PAGE
            )
            looked_at = []
            for row in rows:
                if server not in silent:
                    done.returned += await _take_back(stores, row, server, silent)
                looked_at.append(row["id"])
                if ends is not None and time.monotonic() > ends:
                    break
            done.emptied += int(await stores.pool.fetchval(_SQL["close_emptied"], looked_at))
            turn.org_id = org_id
            if len(rows) == _PAGE or len(looked_at) < len(rows):
                turn.users[org_id] = rows[len(looked_at) - 1]["user_id"]
                more = True
            if ends is not None and time.monotonic() > ends:
                return
        turn.org_id = ""


async def _take_back(stores: Stores, row: asyncpg.Record, server: str, silent: set[str]) -> int:
    why = cast(Kind, row["closing"])
    closing = Closing(UUID(int=row["id"].int), row["org_id"], row["user_id"], why)
    try:
        return await take_back(stores, closing, f"taximeter:{why}")
    except LiveSideAway as error:
        if is_silent(error.__cause__):
            silent.add(server)
        log.warning("closing", org_id=closing.org_id, live_side_away=str(error)[:200])
        return 0
