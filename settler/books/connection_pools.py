"""Keeps Postgres pools whose users wait for a connection as long as they may, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import asyncpg

from taximeter.settler.books.connections import SafeConnect, Session
from taximeter.settler.books.timelines import Timelines

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool


CONFIRM_S = 1.0
"""How long a server may take to confirm that it has given up a command."""
GIVES_UP_LATER_S = 5.0
"""How much later than we a server gives up a command of ours. One that gave up first would answer
a commit that waits for a standby as done, though no standby has it.
"""


class BoundedPool(Pool):
    """A pool that raises TimeoutError when no connection is free, or can be made, within a time.

    asyncpg waits for ever there: while every connection waits for somebody's lock, each request
    that comes would hang, however short its own time-out. A connection that is given back is
    cleaned under another bound, `command_timeout`: a slow server is no reason to call a
    transaction failed that it has committed. One whose command was given up is dropped when the
    server does not confirm that at once.
    """

    def __init__(
        self,
        *args: Any,
        wait_s: float,
        command_timeout: float,
        close_s: float | None = None,
        timelines: Timelines | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, command_timeout=command_timeout, **options)
        self.timelines = Timelines() if timelines is None else timelines
        self.timelines.join(self)
        self._close_s = command_timeout if close_s is None else close_s
        self._wait_s = wait_s
        self._command_timeout = command_timeout

    def acquire(self, *, timeout: float | None = None) -> Any:
        return super().acquire(timeout=self._wait_s if timeout is None else timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        held = connection._con
        if timeout is None:
            # asyncpg says nowhere else that it waits for a server to give up a command. A test
            # fails when these names change: tests/settler/test_stores.py.
            given_up = held is not None and held._protocol._is_cancelling()
            timeout = CONFIRM_S if given_up else self._command_timeout
        try:
            await super().release(connection, timeout=timeout)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # One that could not be cleaned is dropped. What was done with it is done, and whoever
            # was cancelled is told that and nothing else.
            if held is None or not held.is_closed():
                raise

    async def close(self) -> None:
        """Close gracefully within `close_s`, the time of one command if that is not given, then by
        force.
        """
        try:
            async with asyncio.timeout(self._close_s):
                await super().close()
        except TimeoutError:
            self.terminate()


def make_replica_pool(
    url: str,
    name: str,
    *,
    size_max: int,
    command_timeout_s: float,
    wait_s: float,
    close_s: float,
) -> BoundedPool:
    """A pool on a replica, opened by `async with`, whose sessions are called `name` and write
    nothing. Nothing that is decided may be read there.
    """
    return BoundedPool(
        url,
        wait_s=wait_s,
        close_s=close_s,
        command_timeout=command_timeout_s,
        connection_class=Session,
        record_class=asyncpg.Record,
        min_size=0,
        max_size=size_max,
        max_queries=50_000,
        setup=None,
        init=None,
        connect=None,
        loop=None,
        max_inactive_connection_lifetime=300.0,
        timeout=min(5.0, wait_s),
        server_settings={
            "timezone": "UTC",
            "search_path": "public",
            "default_transaction_read_only": "on",
            "statement_timeout": f"{command_timeout_s * 1000:.0f}",
            "jit": "off",
            "application_name": name,
        },
    )


def make_pool(
    url: str,
    *,
    size_max: int,
    command_timeout_s: float,
    wait_s: float,
    server_settings: Mapping[str, str],
    size_min: int = 0,
    accept_loss: bool = False,
    close_s: float | None = None,
    timelines: Timelines | None = None,
) -> BoundedPool:
    """A pool that is opened by `async with`, also while Postgres is away: it connects when it is
    asked to, or at once with a `size_min`. See SafeConnect for what its sessions are; pools of one
    process share their `timelines`.
    """
    timelines = Timelines() if timelines is None else timelines
    return BoundedPool(
        url,
        wait_s=wait_s,
        close_s=close_s,
        timelines=timelines,
        command_timeout=command_timeout_s,
        connection_class=Session,
        record_class=asyncpg.Record,
        min_size=size_min,
        max_size=size_max,
        max_queries=50_000,
        setup=None,
        init=None,
        connect=SafeConnect(accept_loss=accept_loss, timelines=timelines),
        loop=None,
        max_inactive_connection_lifetime=300.0,
        timeout=min(5.0, wait_s),
        server_settings={
            "timezone": "UTC",
            # Ours alone: one that a role or a database has would stay in these sessions after it
            # was lifted there.
            "statement_timeout": f"{(command_timeout_s + GIVES_UP_LATER_S) * 1000:.0f}",
            "lock_timeout": "0",
            "idle_session_timeout": "0",
            **server_settings,
        },
    )
