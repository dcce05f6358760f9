"""Moves an organisation to another cell, step by step, each of which is written down.

Where it lives is decided by one commit in the cell that it leaves: until then the move is undone,
after it the move is finished, whoever died on the way. The other cell lets nobody in before that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from taximeter.meter.wire.away import GONE, gone, moving
from taximeter.meter.wire.keys import account_field
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import read_marks
from taximeter.settler.cells.books import BooksDiffer, Copy, explain
from taximeter.settler.cells.live import (
    Carried,
    close_accounts,
    differences,
    forget_open,
    open_accounts,
    read_open,
    say,
    settle_through,
    shard_for,
)
from taximeter.settler.moves.relay import bring_up_to_date

_SQL: Final = load_queries("cells")
_DIRECTORY: Final = load_queries("directory")
_PAUSE_S: Final = 0.05
Step = Callable[[str], Awaitable[None]]
"""Hears of each step of a move as it is reached."""
_PAGE: Final = 500
LEFT_S: Final = 30.0
"""A move that is closed for so long, and that nobody works on, a settler undoes or goes on with."""
_SETTLER: Final = "settler"

log = structlog.get_logger("taximeter.settler")


class CannotMove(Exception):
    """Why an organisation cannot be moved, or not now. It works where it was."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as the directory names it, and its stores."""

    name: str
    api_url: str
    sidecar_url: str
    stores: Stores


@dataclass(slots=True)
class Moved:
    """What a move came to. paused_s: how long calls of the organisation were answered 503, where
    this process knows that; rows: how many were copied.
    """

    move: UUID
    resumed: bool = False
    closed_at: float | None = None
    paused_s: float = 0.0
    rows: int = 0
    holds: int = 0
    accounts: int = 0
    proof: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connections:
    """Sessions of the owners: of the two cells' books, and of the directory."""

    source: asyncpg.Connection
    target: asyncpg.Connection
    directory: asyncpg.Connection


async def _nothing(_step: str) -> None:
    return None


async def move(
    connections: Connections,
    here: Cell,
    there: Cell,
    org_id: str,
    *,
    actor: str,
    pause_max_s: float = 60.0,
    at: Step = _nothing,
) -> Moved:
    """Move an organisation from `here` to `there`, or finish a move that was left.

    What goes wrong before the organisation lives there is undone before it is raised. If this
    process dies, a settler here undoes within a minute what was not decided, and the same call
    again finishes what was. `at` hears of each step. Raises CannotMove, asyncpg and redis errors.
    """
    async with _alone(connections.source, org_id), _alone(connections.target, org_id):
        left = await connections.source.fetchrow(_SQL["find_move"], org_id)
        if left is not None and left["role"] != "source":
            raise CannotMove(f"{org_id} is on its way from cell {left['cell']} to this one")
        if left is not None and left["state"] == "gone":
            if left["cell"] != there.name:
                raise CannotMove(
                    f"{org_id} is on its way to cell {left['cell']}: finish that first"
                )
            done = Moved(UUID(int=left["id"].int), resumed=True)
            await _finish(connections, here, there, org_id, done, actor, at)
            return done
        if left is not None:
            await undo(connections.source, here.stores, org_id, UUID(int=left["id"].int))
        if half := await connections.source.fetchval(_SQL["undone_and_away"], org_id):
            # Whoever undid it died before it was let in.
            await undo(connections.source, here.stores, org_id, UUID(int=half.int))
        returns = await _check(connections, here, there, org_id)
        begun = await connections.source.fetchval(
            *(_SQL["begin_move"], org_id, there.name, there.api_url, there.sidecar_url),
            pause_max_s,
        )
        done = Moved(UUID(int=begun.int))
        try:
            await _decide(connections, here, there, org_id, done, pause_max_s, at, returns=returns)
        except BaseException as error:
            if await _is_decided(connections.source, done.move):
                raise
            await undo(connections.source, here.stores, org_id, done.move)
            await _forget_there(connections.target, there.stores, org_id, done.move)
            if isinstance(error, asyncpg.UniqueViolationError):
                raise CannotMove(explain(error)) from error
            if isinstance(error, BooksDiffer):
                raise CannotMove(str(error)) from error
            if isinstance(error, TimeoutError):
                raise CannotMove(
                    f"it took longer than {pause_max_s:g} s; nothing has moved"
                ) from error
            raise
        await _finish(connections, here, there, org_id, done, actor, at)
        return done


@asynccontextmanager
async def _alone(conn: asyncpg.Connection, org_id: str) -> AsyncIterator[None]:
    if not await conn.fetchval(_SQL["alone_with"], org_id):
        raise CannotMove(f"somebody else is moving {org_id}")
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute(_SQL["no_longer_alone"], org_id)


async def _check(connections: Connections, here: Cell, there: Cell, org_id: str) -> bool:
    """Whether the organisation comes back to a cell that it has left. Raises CannotMove."""
    source, target = connections.source, connections.target
    if here.name == there.name:
        raise CannotMove(f"{org_id} lives in cell {there.name}")
    if not await source.fetchval("SELECT EXISTS (SELECT FROM organizations WHERE id = $1)", org_id):
        raise CannotMove(f"there is no organisation {org_id} in this cell")
    said = await source.fetchval(_SQL["read_away"], org_id)
    if said is not None:
        raise CannotMove(f"{org_id} is not here: {said}")
    if await source.fetchval(_SQL["releases"]) != await target.fetchval(_SQL["releases"]):
        raise CannotMove("the two databases have other migrations: run `taximeter migrate` in both")
    returns = bool(await target.fetchval(_SQL["is_there"], org_id))
    known = await target.fetchval(_SQL["read_away"], org_id)
    if returns and not (known or "").startswith(GONE):
        raise CannotMove(f"cell {there.name} has books of {org_id} already")
    oldest = await source.fetchval(_SQL["oldest_usage"], org_id)
    floors = [await one.fetchval(_SQL["usage_floor"]) for one in (source, target)]
    if oldest is not None and floors[0] != floors[1] and oldest < max(floors):
        raise CannotMove(
            f"{org_id} has usage of {oldest:%Y-%m}, and other months were dropped in the two cells:"
            " drop the same ones in both (`taximeter partitions`)"
        )
    home = await connections.directory.fetchrow(_DIRECTORY["where_it_lives"], org_id)
    if home is None or home["cell"] != here.name:
        where = "no cell" if home is None else f"cell {home['cell']}"
        raise CannotMove(f"the directory has {org_id} in {where}, and not in cell {here.name}")
    rows = await connections.directory.fetch(_SQL["some_of_cell"], there.name)
    ids = [row["org_id"] for row in rows]
    if ids and not await target.fetchval(_SQL["has_one_of"], ids):
        raise CannotMove(
            f"the other database is not that of cell {there.name}: it has none of the organisations"
            " that live there"
        )
    await there.stores.check_server(await shard_for(there.stores, org_id))
    return returns


async def _decide(
    connections: Connections,
    here: Cell,
    there: Cell,
    org_id: str,
    done: Moved,
    pause_max_s: float,
    at: Step,
    *,
    returns: bool,
) -> None:
    """Copy, close, copy the rest, prove, and decide: from its end on there is no way back."""
    source, target, said = connections.source, connections.target, moving(str(done.move))
    # Nobody is let in there before everything is, whatever becomes of its Redis meanwhile. Where it
    # has been before it is said to have left until all is decided: nothing is to be undone there.
    if returns:
        said_there = await target.fetchval(_SQL["read_away"], org_id)
    else:
        await target.execute(_SQL["set_away"], org_id, said)
        said_there = said
    await close_accounts(there.stores, org_id, said_there, str(done.move), _may_always)
    await at("prepared")
    transaction = target.transaction()
    await transaction.start()
    try:
        copy = Copy(source, target, org_id, returns=returns)
        await copy.begin()
        await copy.copy_the_past()
        await at("copied")
        done.closed_at = time.monotonic()
        async with asyncio.timeout(pause_max_s):
            carried = await _close(source, here.stores, org_id, done, at)
            await copy.copy_the_rest()
            await at("copied the rest")
            await _carry(target, org_id, carried)
            proof = {name: [one.rows, one.digest] for name, one in copy.proof.items()}
            done.rows = sum(one.rows for one in copy.proof.values())
            done.proof = proof
            await target.execute(_SQL["set_away"], org_id, said)
            await target.execute(
                _SQL["note_arrival"],
                *(done.move, org_id, here.name, here.api_url, here.sidecar_url),
                json.dumps(proof),
            )
            await at("proved")
            async with source.transaction():
                if not await source.fetchval(_SQL["set_gone"], done.move, json.dumps(proof)):
                    raise CannotMove("the move was undone meanwhile")
                address = gone(there.name, there.api_url, there.sidecar_url)
                await source.execute(_SQL["set_away"], org_id, address)
        await at("decided")
        await transaction.commit()
    except BaseException:
        if not target.is_closed():
            try:
                await transaction.rollback()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                target.terminate()
        raise


async def _close(
    source: asyncpg.Connection,
    stores: Stores,
    org_id: str,
    done: Moved,
    at: Step,
) -> list[Carried]:
    """Stop everything of the organisation here, book all of it, and read what is open."""
    said = moving(str(done.move))
    async with source.transaction():
        # Whoever freezes here does not keep the organisation's admins waiting.
        await source.execute(_SQL["end_when_idle_here"])
        await source.execute(_SQL["close_alone"], org_id)
        if not await source.fetchval(_SQL["set_closed"], done.move):
            raise CannotMove("the move was undone meanwhile")
        await source.execute(_SQL["set_away"], org_id, said)
    await at("closed")
    while await source.fetchval(_SQL["pending_moves"], org_id):  # noqa: ASYNC110 (of Postgres)
        await asyncio.sleep(_PAUSE_S)
    await _relay_all(stores, org_id)

    async def may(conn: Connection) -> None:
        if await conn.fetchval(_SQL["move_state"], done.move) != "closed":
            raise CannotMove("the move was undone meanwhile")

    closed = await close_accounts(stores, org_id, said, str(done.move), may)
    await at("closed accounts")
    await settle_through(stores, org_id, closed.position)
    known, after = dict[str, tuple[int, int]](), ""
    while rows := await source.fetch(_SQL["accounts_page"], org_id, after, _PAGE):
        after = rows[-1]["user_id"]
        known |= {
            account_field(org_id, row["user_id"]): (row["available"], row["applied"])
            for row in rows
        }
    if wrong := differences(closed.accounts, known):
        raise BooksDiffer(
            f"the live balances of {len(wrong)} accounts are not what the books say, such as"
            f" {wrong[0]}: see `taximeter check`"
        )
    carried = await read_open(stores, org_id)
    done.holds = sum(one.kind == "hold" for one in carried)
    await at("read")
    return carried


async def _relay_all(stores: Stores, org_id: str) -> None:
    """Apply every entry of its accounts that Redis has: none is added any more."""
    after_rounds = 0
    while True:
        rows = await stores.pool.fetch(_SQL["accounts_behind"], org_id, _PAGE)
        if not rows:
            return
        marks = await read_marks(stores.pool)
        mark = marks[await shard_for(stores, org_id)]
        await bring_up_to_date(stores, mark, [(row["org_id"], row["user_id"]) for row in rows])
        after_rounds += 1
        if after_rounds > 1:
            await asyncio.sleep(_PAUSE_S)


async def _carry(target: asyncpg.Connection, org_id: str, carried: list[Carried]) -> None:
    columns = ["org_id", "key", "kind", "account", "record", "left_ms", "counts"]
    await target.copy_records_to_table(
        "cell_move_holds",
        schema_name="taximeter",
        columns=columns,
        records=[
            (org_id, one.key, one.kind, one.account, one.record, one.left_ms, one.counts)
            for one in carried
        ],
    )


async def _finish(
    connections: Connections,
    here: Cell,
    there: Cell,
    org_id: str,
    done: Moved,
    actor: str,
    at: Step,
) -> None:
    """It is decided: whatever is not done yet, in whatever order it was left. Safe to repeat."""
    source, target = connections.source, connections.target
    # Whoever freezes from here on loses its lock, and a settler there lets the organisation in.
    await target.execute(_SQL["end_when_idle"])
    await say(here.stores, org_id, gone(there.name, there.api_url, there.sidecar_url))
    state = await target.fetchval(_SQL["move_state"], done.move)
    if state is None:
        await _copy_again(source, here, there, org_id, target, done)
        state = "arrived"
    await at("arrived")
    await connections.directory.execute(_SQL["flip"], org_id, there.name, here.name)
    await at("said")
    if state == "arrived":
        await _let_in(target, there.stores, org_id, here.name, done, actor, at)
        await at("open")
    await forget_open(here.stores, org_id, await read_open(here.stores, org_id))
    async with source.transaction():
        await source.execute(_SQL["set_done"], done.move)
        await source.execute(
            _SQL["write_audit"], actor, "org.left", org_id, there.name, str(done.move)
        )
    await at("done")


async def _let_in(
    target: Any,
    stores: Stores,
    org_id: str,
    came_from: str,
    done: Moved,
    actor: str,
    at: Step,
) -> None:
    """Open the accounts of an organisation that has arrived, with its holds. Safe to repeat."""
    await say(stores, org_id, moving(str(done.move)))
    rows = await target.fetch(_SQL["carried"], org_id)
    carried = [Carried(**dict(row)) for row in rows]

    async def opened(accounts: Sequence[str]) -> None:
        await at("half opened")
        await target.execute(_SQL["opened"], org_id, list(accounts))
        await at("opened")

    done.accounts = await open_accounts(stores, org_id, carried, opened)
    await say(stores, org_id, "")
    if done.closed_at is not None:
        done.paused_s = time.monotonic() - done.closed_at
    await at("let in")
    async with target.transaction():
        await target.execute(_SQL["let_in"], org_id)
        await target.execute(_SQL["none_is_left"], org_id)
        await target.execute(_SQL["set_done"], done.move)
        await target.execute(
            _SQL["write_audit"], actor, "org.arrived", org_id, came_from, str(done.move)
        )


async def _copy_again(
    source: asyncpg.Connection,
    here: Cell,
    there: Cell,
    org_id: str,
    target: asyncpg.Connection,
    done: Moved,
) -> None:
    """The copy was lost after it was decided: what it was made of is still where it was."""
    carried = await read_open(here.stores, org_id)
    returns = bool(await target.fetchval(_SQL["is_there"], org_id))
    async with target.transaction():
        copy = Copy(source, target, org_id, returns=returns)
        await copy.begin()
        await target.execute(_SQL["set_away"], org_id, moving(str(done.move)))
        await copy.copy_the_rest()
        await _carry(target, org_id, carried)
        proof = {name: [one.rows, one.digest] for name, one in copy.proof.items()}
        await target.execute(
            _SQL["note_arrival"],
            *(done.move, org_id, here.name, here.api_url, here.sidecar_url),
            json.dumps(proof),
        )


async def _is_decided(source: asyncpg.Connection, move_id: UUID) -> bool:
    """Whether there is no way back. Raises when that cannot be asked: then nothing is undone."""
    return await source.fetchval(_SQL["move_state"], move_id) in ("gone", "done")


async def _may_always(_conn: Connection) -> None:
    return None


async def undo(conn: Any, stores: Stores, org_id: str, move_id: UUID) -> bool:
    """Let the organisation in again where it was. False when it is decided that it has left. Safe
    to repeat. Raises asyncpg and redis errors.
    """
    await conn.execute(_SQL["set_undone"], move_id)
    if await conn.fetchval(_SQL["move_state"], move_id) != "undone":
        return False
    said = moving(str(move_id))
    if await conn.fetchval(_SQL["read_away"], org_id) == said:
        # First of all: who froze while it closed accounts closes none after this.
        position = await say(stores, org_id, said, f"-{move_id}")
        # What closed accounts were charged is in the books before they are opened from those.
        await settle_through(stores, org_id, position)
        await open_accounts(stores, org_id, await read_open(stores, org_id))
        await say(stores, org_id, "")
        await conn.execute(_SQL["let_in"], org_id)
    return True


async def _forget_there(
    target: asyncpg.Connection, stores: Stores, org_id: str, move_id: UUID
) -> None:
    """Nothing has come: take away what is said of it there."""
    if target.is_closed() or await target.fetchval(_SQL["is_there"], org_id):
        return
    await say(stores, org_id, "")
    await target.execute(_SQL["let_in"], org_id)


async def take_up_left(stores: Stores) -> dict[str, int]:
    """Go on with moves that were left, as far as that needs this cell alone; how many were undone,
    opened, or told to callers.

    One that was not decided is undone. An organisation that has arrived here is let in. One that
    has left is called gone, with its new address. A move that somebody works on is left alone, but
    for one that is closed for longer than it may be: its process is frozen, and decides nothing
    when it wakes. What goes wrong with one is logged, and keeps no other waiting. Raises asyncpg
    errors when the moves cannot be read.
    """
    counts = dict.fromkeys(("undone", "opened", "told"), 0)
    for row in await stores.pool.fetch(_SQL["left"], LEFT_S):
        try:
            async with stores.pool.acquire() as conn:
                is_alone = await conn.fetchval(_SQL["alone_with"], row["org_id"])
                if is_alone or row["overdue"]:
                    # The pool gives the lock back with its connection.
                    what = await _take_up(conn, stores, row["org_id"], row["id"])
                    if what is not None:
                        counts[what] += 1
        except Exception as error:
            log.warning("cell_moves", left=row["org_id"], reason=f"{error!r:.200}")
    return counts


async def _take_up(conn: Any, stores: Stores, org_id: str, move_id: UUID) -> str | None:
    # Read again: somebody may have ended it before the lock was ours.
    row = await conn.fetchrow(_SQL["read_move"], move_id)
    if row["state"] == "gone":
        said = await conn.fetchval(_SQL["read_away"], org_id)
        shard = await shard_for(stores, org_id)
        told = await stores.redis.hget(stores.keys(shard).meta, f"away:{org_id}")
        if said is None or told == said.encode():
            return None
        await say(stores, org_id, said)
        return "told"
    if row["state"] == "arrived":
        done = Moved(UUID(int=move_id.int), resumed=True)
        await _let_in(conn, stores, org_id, row["cell"], done, _SETTLER, _nothing)
        return "opened"
    if row["state"] in ("copying", "closed", "undone"):
        return "undone" if await undo(conn, stores, org_id, move_id) else None
    return None
