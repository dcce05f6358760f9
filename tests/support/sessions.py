"""Sessions of Postgres that outlive the connections of a test, for the next test of its file.

A session costs Postgres about 30 ms of processor time until it has seen our tables, and a test of
the API opens half a dozen. So one that is closed in peace is cleaned and kept, and who connects in
the same way afterwards goes on with it, as with a pooler between them. What is cut off, or is not
at rest, is gone as ever.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import defaultdict
from typing import Any, Final, NamedTuple

import asyncpg
from asyncpg import connect_utils, connection

from taximeter.settler.books.connections import _TOKEN

_KEPT_MAX: Final = 40
_CLEAN_S: Final = 30.0
_CLEAN: Final = (
    "RESET ALL; SET SESSION AUTHORIZATION DEFAULT; CLOSE ALL; UNLISTEN *;"
    " SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
_real_connect: Final = connect_utils._connect
_real_close: Final = connection.Connection.close


class _Kept(NamedTuple):
    """All that a connection is made of but itself."""

    protocol: Any
    transport: Any
    address: Any
    config: Any
    parameters: Any
    statements: Any


class Sessions:
    """Those of one database, in one event loop. Between `begin` and `end` what is closed there is
    kept.
    """

    _active: Sessions | None = None

    def __init__(self, database: str) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, list[_Kept]] = defaultdict(list)
        self._ways: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def begin(self) -> None:
        assert Sessions._active is None
        Sessions._active = self
        connect_utils._connect = _connect
        connection.Connection.close = _close

    async def end(self) -> None:
        """Close all that are kept."""
        Sessions._active = None
        connect_utils._connect = _real_connect
        connection.Connection.close = _real_close
        for kept in (one for some in self._kept.values() for one in some):
            await _real_close(_revived(kept, connection.Connection))
        self._kept.clear()

    @property
    def pids(self) -> list[int]:
        """The backends of those that are kept."""
        return [one.protocol.get_server_pid() for some in self._kept.values() for one in some]

    async def connect(self, how: dict[str, Any]) -> Any:
        """One that is kept for who connects like this, or a new one."""
        settings = dict(how["server_settings"] or {})
        token = settings.pop(_TOKEN, None)
        way = repr(sorted({**how, "loop": None, "server_settings": settings}.items()))
        while self._kept[way]:
            found = _revived(self._kept[way].pop(), how["connection_class"])
            try:
                await found.fetchval("SELECT set_config($1, $2, false)", _TOKEN, token or "")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                found.terminate()  # Ended by the server, or with it, meanwhile.
                continue
            break
        else:
            found = await _real_connect(**how)
        self._ways[found] = way
        return found

    async def keep(self, found: Any) -> bool:
        """Whether a connection that is to be closed leaves its session here."""
        way = self._ways.pop(found, None)
        if (
            way is None
            or found.is_closed()
            or found._params.database != self._database
            or found._loop is not self._loop
            or asyncio.get_running_loop() is not self._loop
            or found._cancellations
            or found.is_in_transaction()
            or sum(map(len, self._kept.values())) >= _KEPT_MAX
        ):
            return False
        try:
            async with asyncio.timeout(_CLEAN_S):
                await found.execute(_CLEAN)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        kept = _Kept(
            found._protocol,
            found._transport,
            found._addr,
            found._config,
            found._params,
            found._stmt_cache,
        )
        # From here on the connection is closed for whoever has it.
        found._stmt_cache = connection._StatementCache(
            loop=self._loop, max_size=0, on_remove=_nothing, max_lifetime=0
        )
        found._aborted = True
        found._cleanup()
        self._kept[way].append(kept)
        return True


def _nothing(_: Any) -> None:
    return None


def _revived(kept: _Kept, made_of: Any) -> Any:
    made = made_of(kept.protocol, kept.transport, asyncio.get_running_loop(), *kept[2:5])
    made._stmt_cache = kept.statements
    forget = functools.partial(connection._weak_maybe_gc_stmt, weakref.ref(made))
    made._stmt_cache._on_remove = forget
    kept.protocol.set_connection(made)
    return made


async def _connect(**how: Any) -> Any:
    sessions, loop = Sessions._active, how["loop"] or asyncio.get_running_loop()
    if sessions is None or loop is not sessions._loop:
        return await _real_connect(**how)
    return await sessions.connect(how)


async def _close(self: Any, *, timeout: float | None = None) -> None:
    sessions = Sessions._active
    if sessions is None or not await sessions.keep(self):
        await _real_close(self, timeout=timeout)
