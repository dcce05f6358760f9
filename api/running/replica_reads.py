"""Reads reports and lists from a replica of Postgres, where one is named and has everything that
the primary had when they were asked for; else from the primary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

import asyncpg

from taximeter.api.sql import REPORTS
from taximeter.settler.books.stores import Connection, Pool

logger = logging.getLogger("taximeter.api")

CATCHES_UP_S: Final = 1.0
"""How long an answer waits for the replica to have what the primary has."""
PAUSE_S: Final = 0.02
RESTS_S: Final = 1.0
"""For so long nobody asks a replica that was away, or behind, for the last answer."""
_TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

T = TypeVar("T")


class _Behind(Exception):
    """The replica does not have what the primary has."""


class Read(NamedTuple):
    """Where an answer was read, and the moment before which all that was written is in it."""

    place: str
    as_of: datetime


class Reports:
    """`primary` is asked for decisions and balances as well, `replica` for nothing but reads."""

    def __init__(self, primary: Pool, replica: Pool | None) -> None:
        self._primary = primary
        self.replica = replica
        self._rests_until = 0.0
        self._said = ""

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> tuple[T, Read | None]:
        """What `work` reads in one snapshot, which has all that was committed before the question;
        and where, if there is a choice. `work` is called again on the primary when the replica
        fails it. Raises asyncpg errors of the primary.
        """
        if self.replica is None:
            async with _snapshot(self._primary) as conn:
                return await work(conn), None
        place = await self._primary.fetchrow(REPORTS["place_of_primary"])
        assert place is not None, "it has one row"
        if asyncio.get_running_loop().time() >= self._rests_until:
            try:
                found = await self._read_replica(self.replica, work, place)
            except (*_TROUBLE, _Behind) as error:
                self._rest(error)
            else:
                self._said = ""
                return found, Read("replica", place["asked_at"])
        async with _snapshot(self._primary) as conn:
            return await work(conn), Read("primary", place["asked_at"])

    async def _read_replica(
        self, replica: Pool, work: Callable[[Connection], Awaitable[T]], wanted: asyncpg.Record
    ) -> T:
        # One that hangs may hang anywhere.
        async with asyncio.timeout(2 * CATCHES_UP_S) as bound, replica.acquire() as conn:
            await _catch_up(conn, wanted)
            bound.reschedule(None)
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                return await work(conn)

    def _rest(self, error: Exception) -> None:
        self._rests_until = asyncio.get_running_loop().time() + RESTS_S
        said = f"{type(error).__name__} {error}".rstrip()
        if said != self._said:
            self._said = said
            logger.warning("reports are read from the primary: %s", said)


@asynccontextmanager
async def _snapshot(pool: Pool) -> AsyncIterator[Connection]:
    async with (
        pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield conn


async def _catch_up(conn: Connection, wanted: asyncpg.Record) -> None:
    """Return when this replica has what the primary had. Raises _Behind."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CATCHES_UP_S
    while True:
        found = await conn.fetchrow(REPORTS["place_of_replica"])
        assert found is not None, "it has one row"
        if found["system"] != wanted["system"]:
            raise _Behind("TAXIMETER_REPORTS_DATABASE_URL is no replica of this database")
        if found["position"] >= wanted["position"] and found["epochs"] == wanted["epochs"]:
            return
        if loop.time() >= deadline:
            raise _Behind(f"the replica is behind by more than {CATCHES_UP_S:g} s")
        await asyncio.sleep(PAUSE_S)
