"""Moves credits from an account to another one or to the pool, decided on the live balance while
its user spends.

A move is written down, then held on the live account, then booked in one Postgres transaction whose
entry names the hold, and the relay ends the hold in the step that applies the entry. So the credits
are never free in two places, and never in none. A move's row is locked from the hold to the
booking; whoever dies in between leaves it pending, and `undo_left` gives its hold back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
import structlog
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.retries import retry_transient
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import Mark, read_marks
from taximeter.settler.moves.live_hold import (
    NotTaking,
    check_taking,
    give_back,
    is_loaded,
    mark_of,
    take,
)
from taximeter.settler.moves.records import Move, Request
from taximeter.settler.moves.relay import bring_up_to_date

_SQL: Final = load_queries("moves")
_ATTEMPTS: Final = 5
_BACKOFF_S: Final = 0.05
_BACKOFF_MAX_S: Final = 1.0
_UNDONE_AT_ONCE: Final = 100

T = TypeVar("T")

log = structlog.get_logger("taximeter.settler")


class KeyUsed(Exception):
    """The idempotency key has moved something else. Nothing was changed."""


class LiveSideAway(Exception):
    """The live balance could not be asked, so nothing was moved. Try again."""


async def _find(stores: Stores, request: Request) -> Move | None:
    """The move that the request's key stands for already. Raises KeyUsed when it is another one."""
    if request.key is None:
        return None
    row = await stores.pool.fetchrow(_SQL["find_by_key"], request.org_id, request.kind, request.key)
    if row is None:
        return None
    found = Move.of(row)
    if (found.from_user, found.to_user, found.amount) != (
        request.from_user,
        request.to_user,
        request.amount,
    ):
        raise KeyUsed(str(found.id))
    return found


async def move(
    stores: Stores,
    request: Request,
    *,
    before_it_begins: Callable[[], Awaitable[None]] | None = None,
) -> Move:
    """Move credits and say how it ended: `done`, `refused`, or `undone` (somebody else gave it up;
    try again).

    On return it is durable; the live balances have it too (`live`), or will with the next relay.
    The same key again moves nothing more and gets the same answer, also while the first is under
    way; what was refused is decided anew. `before_it_begins` is asked where the key stands for
    nothing yet, and may raise to refuse. A crash leaves nothing, or a move that `undo_left` ends.
    Raises KeyUsed, LiveSideAway (nothing was moved), asyncpg errors (then the outcome is known once
    Postgres is back).
    """
    mark: Mark | None = None
    for _ in range(_ATTEMPTS):
        begun = await _find(stores, request)
        if begun is not None and begun.state != "pending":
            return begun
        if begun is None and before_it_begins is not None:
            await before_it_begins()
        if mark is None:
            mark = await ask_live_side(mark_of(stores, request.org_id))
        if begun is None:
            await ask_live_side(check_taking(stores, mark))
            begun = await _begin(stores, request)
        if begun is not None:
            return await _carry_out(stores, mark, begun)
    raise asyncpg.SerializationError("others keep beginning and undoing a move with this key")


async def _begin(stores: Stores, request: Request) -> Move | None:
    """Write the move down; None when its key came into use in between."""
    row = await stores.pool.fetchrow(
        _SQL["begin_move"],
        request.org_id,
        request.kind,
        request.from_user,
        request.to_user,
        request.amount,
        request.allocation_id,
        request.actor,
        request.key,
        request.request_id,
    )
    return None if row is None else Move.of(row)


async def _carry_out(stores: Stores, mark: Mark, begun: Move) -> Move:
    await ask_live_side(bring_up_to_date(stores, mark, begun.accounts))
    # Before the transaction below: who loads with one connection in hand waits for a second one.
    known = await ask_live_side(is_loaded(stores, mark, begun.source))
    ended = await _with_retries(stores, mark, begun.id, known)
    if ended.state == "done":
        try:
            return replace(ended, live=await bring_up_to_date(stores, mark, ended.accounts))
        except (RedisError, OSError, asyncpg.PostgresError) as error:
            # It is booked: the next relay does the same.
            log.warning("moves", not_relayed=str(ended.id), reason=str(error)[:200])
    return ended


async def _with_retries(stores: Stores, mark: Mark, move_id: UUID, known: bool) -> Move:
    async def once() -> Move:
        async with stores.pool.acquire() as conn, conn.transaction(isolation="read_committed"):
            return await _decide(conn, stores, mark, move_id, known)

    return await retry_transient(once, attempts=_ATTEMPTS, first_s=_BACKOFF_S, max_s=_BACKOFF_MAX_S)


async def _decide(conn: Connection, stores: Stores, mark: Mark, move_id: UUID, known: bool) -> Move:
    """Hold, then book, under the lock of the move's row. A hold that came of nothing is given back
    before the row says so, so that a crash in between leaves a pending move.
    """
    current = await _row(conn, "lock_move", move_id)
    if current.state != "pending":
        return current
    if not known:
        return await _row(conn, "end_move", move_id, "refused", "insufficient", 0, 0)
    reply = await ask_live_side(take(stores, mark, current.source, move_id, current.amount))
    if reply.code is Code.INSUFFICIENT:
        have = max(0, reply.available)
        return await _row(conn, "end_move", move_id, "refused", "insufficient", have, reply.held)
    if reply.code is Code.REPLAYED:
        # Its hold has ended although it was not booked: this took longer than an hour.
        return await _row(conn, "end_move", move_id, "undone", "hold_is_over", None, None)
    if reply.code is not Code.OK:
        raise LiveSideAway(f"{reply.code.name} {reply.field}".rstrip())
    ended = await _row(conn, "carry_out", move_id)
    if ended.state != "done":
        await ask_live_side(give_back(stores, mark, current.source, move_id))
    return ended


async def _row(conn: Connection, query: str, *arguments: object) -> Move:
    row = await conn.fetchrow(_SQL[query], *arguments)
    assert row is not None, "a move that was begun has a row for ever"
    return Move.of(row)


async def ask_live_side(work: Awaitable[T]) -> T:
    """What `work` returns. Raises LiveSideAway instead of what Redis raises."""
    try:
        return await work
    except (RedisError, OSError, NotTaking) as error:
        raise LiveSideAway(f"{type(error).__name__} {error}".rstrip()) from error


def is_silent(error: BaseException | None) -> bool:
    """Whether a server has not answered, so that the next call would wait as long."""
    return isinstance(error, RedisError | OSError) and not isinstance(error, ResponseError)


async def undo_left(stores: Stores, *, grace_s: float) -> int:
    """Undo moves that nobody has ended `grace_s` after they began; returns how many.

    Whoever works on a move has its row locked and is left alone. A crash here leaves them pending
    for the next call, and so does a shard that cannot be asked; a server that did not answer is not
    asked again. Raises asyncpg errors.
    """
    marks = await read_marks(stores.pool)
    undone = 0
    silent: set[str] = set()
    async with stores.pool.acquire() as conn, conn.transaction():
        for row in await conn.fetch(_SQL["left_half_done"], grace_s, _UNDONE_AT_ONCE):
            left = Move.of(row)
            mark = marks[shard_of(left.org_id, len(marks))]
            server = stores.server_name(mark.shard)
            if server in silent:
                continue
            try:
                await give_back(stores, mark, left.source, left.id)
            except (RedisError, OSError) as error:
                if is_silent(error):
                    silent.add(server)
                log.warning("moves", not_undone=str(left.id), reason=str(error)[:200])
                continue
            await conn.execute(_SQL["end_move"], left.id, "undone", "left_half_done", None, None)
            undone += 1
    return undone
