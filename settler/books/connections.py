"""Connections to Postgres whose commits stay, whatever its database, its roles or its
configuration say otherwise.

Each session is started with what our transactions are written for: a commit that waits for the
disk, READ COMMITTED, no time-outs but our own. Settings of a session's start stand above those of
roles, databases and the server's file, also when one of those is changed later. A proxy that keeps
them back is found out by a value that only this process knows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import asyncpg

from taximeter.settler.books.named_sql import load_queries

_SQL: Final = load_queries("connecting")
_TOKEN: Final = "taximeter.started_with"
_CHECK_S: Final = 3.0
OLDEST_POSTGRES: Final = 15
_WEAK: Final = "off"
_NOT_POSTGRES: Final = (
    "the settings of our sessions do not reach Postgres; is there a PgBouncer in between? Locks and"
    " commits that wait need sessions of our own: let TAXIMETER_DATABASE_URL be the address of"
    " Postgres itself"
)

log = logging.getLogger("taximeter.settler")


class UnsafeDatabase(asyncpg.InterfaceError):
    """Nothing is written to this Postgres, since it may lose what it has confirmed or keeps our
    settings from our sessions. The message says which setting, and what to do.
    """


class SafeConnect:
    """Connects for a pool. `accept_loss` only warns about fsync and full_page_writes.

    Raises UnsafeDatabase, and what asyncpg raises.
    """

    def __init__(self, *, accept_loss: bool = False) -> None:
        self._accept_loss = accept_loss
        self._has_warned = False
        self._commit: str | None = None

    async def __call__(
        self, *args: Any, server_settings: Mapping[str, str], **options: Any
    ) -> asyncpg.Connection[asyncpg.Record]:
        while True:
            token = uuid4().hex
            settings = {
                "default_transaction_isolation": "read committed",
                # A user named taximeter would look into the schema of that name first.
                "search_path": "public",
                **server_settings,
                _TOKEN: token,
            }
            if self._commit is not None:
                settings["synchronous_commit"] = self._commit
            try:
                conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
                    *args, server_settings=settings, **options
                )
            except asyncpg.ProtocolViolationError as error:
                raise UnsafeDatabase(f"{_NOT_POSTGRES} ({error})") from error
            try:
                found = await conn.fetchrow(_SQL["read_guarantees"])
                assert found is not None, "it reads no table"
                self._check(found, token)
            except BaseException:
                conn.terminate()
                raise
            if self._commit is not None:
                return conn
            # What is stronger than a commit on this disk, such as one on a standby's, stays as it
            # is; from now on no change of the configuration makes it weaker.
            chosen = found["synchronous_commit"]
            self._commit = "on" if chosen == _WEAK else chosen
            await conn.close()

    def _check(self, found: asyncpg.Record, token: str) -> None:
        if found["started_with"] != token:
            raise UnsafeDatabase(_NOT_POSTGRES)
        if found["version"] < OLDEST_POSTGRES:
            raise UnsafeDatabase(
                f"Postgres {found['version']} is too old: {OLDEST_POSTGRES} or newer is needed"
            )
        if self._commit is not None and found["synchronous_commit"] == _WEAK:
            raise UnsafeDatabase("synchronous_commit is off in our sessions, against our setting")
        weak = [name for name in ("fsync", "full_page_writes") if found[name] != "on"]
        if not weak:
            return
        words = " and ".join(weak)
        if not self._accept_loss:
            raise UnsafeDatabase(
                f"Postgres has {words} off, so a crash of its machine can take or damage what it"
                " has confirmed: turn it on, or accept that with"
                " TAXIMETER_DATABASE_DURABILITY=none"
            )
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "Postgres has %s off: a crash of its machine can take what is booked", words
            )


async def check_database(url: str, *, accept_loss: bool) -> None:
    """Raise UnsafeDatabase if this Postgres must not be used. One that is away, or refuses us, may
    be another one later: that shows then.
    """
    connect = SafeConnect(accept_loss=accept_loss)
    try:
        conn = await connect(url, server_settings={}, timeout=_CHECK_S, command_timeout=_CHECK_S)
    except UnsafeDatabase:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return
    await conn.close(timeout=_CHECK_S)
