"""Opens connections to Postgres whose commits stay, whatever its database, its roles or its
configuration say otherwise.

Each session is started with what our transactions are written for: a commit that waits for the
disk, READ COMMITTED, no time-outs but our own. Settings of a session's start stand above those of
roles, databases and the server's file, also when one of those is changed later. A proxy that keeps
them back is found out by a value that only this process knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg
from asyncpg.transaction import Transaction

from taximeter.settler.books.addresses import one_by_one
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.timelines import (
    NoPrimary,
    SupersededPostgres,
    Timelines,
    timeline_of,
)

if TYPE_CHECKING:
    Base = asyncpg.Connection[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record]
    Try = asyncio.Future[tuple[Connection, str]]
else:
    Base, Connection, Try = asyncpg.Connection, asyncpg.Connection, asyncio.Future

_SQL: Final = load_queries("connecting")
_TOKEN: Final = "taximeter.started_with"
_CHECK_S: Final = 3.0
_CONNECT_S: Final = 5.0
_OTHERS_S: Final = 0.5
"""How long a server that takes writes waits for others that may have a later timeline."""
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


class _OwnTransaction(Transaction):
    """A transaction whose end says nothing else than what ended it.

    Where what is inside raises, be it that its task is cancelled, asyncpg undoes the transaction,
    and what goes wrong with that takes the place of the error: the connection is closed already,
    say. A task that was cancelled would go on then, for whoever waits for its end for ever.
    """

    def __init__(self, session: Session, *options: Any) -> None:
        super().__init__(session, *options)
        self._session = session

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            if kind is None:
                raise
            # With its session the transaction ends, whatever the server has heard of.
            self._session.terminate()


class Session(Base):
    """A session whose transactions say what ended them."""

    def transaction(
        self,
        *,
        isolation: Any = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> Transaction:
        if self.is_closed():
            raise asyncpg.InterfaceError("connection is closed")
        return _OwnTransaction(self, isolation, readonly, deferrable)


class SafeConnect:
    """Connects for a pool, to the server that takes writes; of several addresses, to the one with
    the latest timeline. `accept_loss` only warns about fsync and full_page_writes. `timelines`:
    what the process knows of servers that were promoted.

    Raises UnsafeDatabase, NoPrimary, SupersededPostgres, and what asyncpg raises.
    """

    def __init__(self, *, accept_loss: bool = False, timelines: Timelines | None = None) -> None:
        self._accept_loss = accept_loss
        self._timelines = Timelines() if timelines is None else timelines
        self._has_warned = False
        self._commit: str | None = None
        self._last: str | None = None

    @property
    def last(self) -> str | None:
        """The address, of several, that was connected to last."""
        return self._last

    async def __call__(
        self,
        url: str,
        *,
        server_settings: Mapping[str, str],
        timeout: float = _CONNECT_S,
        **options: Any,
    ) -> Connection:
        urls = one_by_one(url)
        if len(urls) == 1:
            return (await self._connect(url, server_settings, timeout, options))[0]
        # Whoever waits for a connection waits this long: one that hangs takes a part of it.
        if self._last is not None:
            with suppress(*_TROUBLE):
                return (await self._connect(self._last, server_settings, timeout / 4, options))[0]
        tries = [
            asyncio.ensure_future(self._connect(one, server_settings, timeout / 2, options))
            for one in urls
        ]
        try:
            await _some_and_those_in_time(tries)
        except asyncio.CancelledError:
            await _end(tries)
            for one in tries:
                if not one.cancelled() and one.exception() is None:
                    one.result()[0].terminate()
            raise
        await _end(tries)
        return self._latest(urls, await asyncio.gather(*tries, return_exceptions=True))

    def _latest(
        self, urls: Sequence[str], tried: Sequence[tuple[Connection, str] | BaseException]
    ) -> Connection:
        """The connection to the server with the latest timeline; the others are ended."""
        found = [
            (timeline_of(one[1]), url, one[0])
            for url, one in zip(urls, tried, strict=True)
            if not isinstance(one, BaseException)
        ]
        failures = [one for one in tried if isinstance(one, BaseException)]
        if not found:
            # What a person must do something about comes first, then what says most.
            failures.sort(key=lambda error: [isinstance(error, kind) for kind in _TELLING])
            raise failures[-1]
        _, self._last, chosen = max(found, key=lambda one: one[0])
        for _, _, conn in found:
            if conn is not chosen:
                conn.terminate()
        return chosen

    async def _connect(
        self, url: str, server_settings: Mapping[str, str], timeout: float, options: dict[str, Any]
    ) -> tuple[Connection, str]:
        """A session, and the history of its server."""
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
                conn: Connection = await asyncpg.connect(
                    url, server_settings=settings, timeout=timeout, **options
                )
            except asyncpg.ProtocolViolationError as error:
                raise UnsafeDatabase(f"{_NOT_POSTGRES} ({error})") from error
            try:
                found = await conn.fetchrow(_SQL["read_guarantees"])
                assert found is not None, "it reads no table"
                self._check(found, token)
                await self._timelines.note(found["history"])
                self._timelines.check(found["history"])
            except BaseException:
                conn.terminate()
                raise
            if self._commit is not None:
                return conn, found["history"]
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
        if found["history"] is None:
            raise NoPrimary("no server of this address takes writes: what answers is a standby")
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


async def _some_and_those_in_time(tries: Sequence[Try]) -> None:
    """Return when all have ended, or a moment after the first that has come to a connection."""
    left = set(tries)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        if any(one.exception() is None for one in done):
            break
    if left:
        await asyncio.wait(left, timeout=_OTHERS_S)


async def _end(tries: Sequence[Try]) -> None:
    for one in tries:
        one.cancel()
    await asyncio.gather(*tries, return_exceptions=True)


_TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
_TELLING: Final = (UnsafeDatabase, SupersededPostgres, NoPrimary, asyncpg.PostgresError)


async def primary_of(url: str) -> str:
    """The address of the one server of `url` that takes writes, for a program that takes one.
    Raises as SafeConnect.
    """
    if len(one_by_one(url)) == 1:
        return url
    connect = SafeConnect(accept_loss=True)  # Whoever uses it for more looks again.
    conn = await connect(url, server_settings={}, timeout=2 * _CONNECT_S)
    await conn.close()
    return connect.last or url


async def check_database(url: str, *, accept_loss: bool) -> None:
    """Raise UnsafeDatabase if this Postgres must not be used. One that is away, or refuses us, may
    be another one later: that shows then.
    """
    connect = SafeConnect(accept_loss=accept_loss)
    try:
        conn = await connect(url, server_settings={}, timeout=_CHECK_S, command_timeout=_CHECK_S)
    except UnsafeDatabase:
        raise
    except _TROUBLE:
        return
    await conn.close(timeout=_CHECK_S)
