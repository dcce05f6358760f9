"""Knows whether this database is the installation itself or may be a copy of it: then nobody is
told anything, nothing is archived, and where it is very likely a copy no credits are taken, until
an operator has said which.

A copy has everything that the original has. What it lacks is the Redis that has been at work with
it, so whoever opens shards says whether Redis knows this Postgres; and it may have another name
(TAXIMETER_INSTALLATION).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Pool, Stores

_SQL: Final = load_queries("installation")


class AnotherInstallation(Exception):
    """The database is that of an installation with another name. Nothing was touched."""


class MayBeACopy(Exception):
    """This is very likely a copy of an installation: its shards stay closed until an operator has
    said what it is.
    """


@dataclass(frozen=True, slots=True)
class Standing:
    """What Postgres says of itself. `silent_since`: since when nobody is told anything, None when
    somebody may be; `is_stopped`: whether no credits are taken either; `answer`: what an operator
    has said last. The counts are of what waits to be sent, and of whom to.
    """

    name: str | None
    history: str | None
    silent_since: datetime | None
    silent_because: str | None
    is_stopped: bool
    answered_at: datetime | None
    answer: str | None
    notices: int
    deliveries: int
    receivers: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a copy does not send: notices, deliveries that waited, receivers that were disabled."""

    notices: int
    deliveries: int
    receivers: int


async def claim_installation(stores: Stores) -> None:
    """Give the database the name of the settings where it has none. Raises AnotherInstallation when
    it has another one, asyncpg errors.
    """
    row = await stores.pool.fetchrow(_SQL["read_installation"])
    assert row is not None, "made by its migration, and never deleted"
    wanted = stores.installation
    if wanted is not None and row["name"] not in (None, wanted):
        raise AnotherInstallation(
            f"TAXIMETER_INSTALLATION is {wanted}, and the database is of {row['name']}: if it is a"
            f" copy, make it one of its own by `taximeter restored --copy {wanted}`"
        )
    history = await stores.pool.fetchval(_SQL["read_history"])
    await stores.pool.execute(_SQL["name_installation"], wanted, history)


async def may_speak(conn: Connection | Pool) -> bool:
    """Whether anybody may be told anything, or sent a file. Raises asyncpg errors."""
    return bool(await conn.fetchval(_SQL["may_speak"]))


async def note_redis(
    conn: Connection, stores: Stores, *, history: str, known: bool, used: bool
) -> bool:
    """Note what a Redis that is to be opened says of this Postgres, whose history that is: `known`,
    it has been at work with it; `used`, the database has been at work before. Returns whether the
    shard may be opened. In a transaction of its own. Raises asyncpg errors.

    A Redis that was emptied knows nothing. An installation that has its name in the settings goes
    on then, unless Postgres has another history as well: that is what a restore leaves. One that
    never had a name goes on, and tells nobody anything. Whatever else there is may be a copy, whose
    gateways would call providers at the expense of the original: it is not opened.
    """
    async with conn.transaction():
        row = await conn.fetchrow(_SQL["lock_installation"])
        assert row is not None, "made by its migration, and never deleted"
        if known or not used:
            await conn.execute(_SQL["note_history"], history)
            return not row["is_stopped"]
        is_itself = stores.installation is not None and row["name"] == stores.installation
        is_same = row["history"] in (None, history)
        if is_itself and is_same:
            return not row["is_stopped"]
        is_stopped: bool = await conn.fetchval(
            _SQL["fall_silent"],
            "Redis does not know this database: Redis was lost, or this is a copy",
            not is_same or row["name"] is not None,
        )
        return not is_stopped


async def objection(conn: Connection | Pool, installation: str | None) -> str | None:
    """Why a process with this name in its settings may take no credits here, None when it may.
    Raises asyncpg errors.
    """
    row = await conn.fetchrow(_SQL["whose"])
    assert row is not None, "made by its migration, and never deleted"
    if row["is_stopped"]:
        return "Redis does not know this database: say what it is by `taximeter restored`"
    if installation is not None and row["name"] not in (None, installation):
        return (
            f"TAXIMETER_INSTALLATION is {installation}, and the database is of {row['name']}: if"
            f" it is a copy, make it one of its own by `taximeter restored --copy {installation}`"
        )
    return None


async def read_standing(conn: Connection | Pool) -> Standing:
    """What Postgres says of itself now. Raises asyncpg errors."""
    row: Any = await conn.fetchrow(_SQL["read_installation"])
    waiting: Any = await conn.fetchrow(_SQL["waiting"])
    return Standing(**dict(row), **dict(waiting))


async def speak_again(pool: Pool, note: str) -> None:
    """It is the installation itself: what waits is sent. Durable on return. Raises asyncpg
    errors.
    """
    history = await pool.fetchval(_SQL["read_history"])
    await pool.execute(_SQL["speak_again"], history, note)


async def become_copy(pool: Pool, name: str) -> Dropped:
    """Make it an installation of its own: nothing of what the original had to send is sent, and its
    receivers are disabled. Durable on return, whole or not at all. Raises asyncpg errors.
    """
    async with pool.acquire() as conn, conn.transaction():
        receivers = await conn.fetchval(_SQL["disable_receivers"])
        deliveries = await conn.fetchval(_SQL["drop_deliveries"])
        notices = await conn.fetchval(_SQL["drop_notices"])
        history = await conn.fetchval(_SQL["read_history"])
        await conn.execute(_SQL["become_another"], history, "a copy", name)
    return Dropped(notices, deliveries, receivers)
