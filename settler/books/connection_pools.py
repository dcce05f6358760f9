"""Postgres pools whose users wait for a connection as long as they may, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import asyncpg

from taximeter.settler.books.connections import SafeConnect

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool


CONFIRM_S = 1.0
"""How long a server may take to confirm that it has given up a command."""


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
        **options: Any,
    ) -> None:
        super().__init__(*args, command_timeout=command_timeout, **options)
        self._close_s = command_timeout if close_s is None else close_s
        self._wait_s = wait_s
        self._command_timeout = command_timeout

    def acquire(self, *, timeout: float | None = None) -> Any:
        return super().acquire(timeout=self._wait_s if timeout is None else timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        if timeout is None:
            # asyncpg says nowhere else that it waits for a server to give up a command. A test
            # fails when these names change: tests/settler/test_stores.py.
            held = connection._con
            given_up = held is not None and held._protocol._is_cancelling()
            timeout = CONFIRM_S if given_up else self._command_timeout
        await super().release(connection, timeout=timeout)

    async def close(self) -> None:
        """Close gracefully within `close_s`, the time of one command if that is not given, then by
        force.
        """
        try:
            async with asyncio.timeout(self._close_s):
                await super().close()
        except TimeoutError:
            self.terminate()


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
) -> BoundedPool:
    """A pool that is opened by `async with`, also while Postgres is away: it connects when it is
    asked to, or at once with a `size_min`. See SafeConnect for what its sessions are.
    """
    return BoundedPool(
        url,
        wait_s=wait_s,
        close_s=close_s,
        command_timeout=command_timeout_s,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        min_size=size_min,
        max_size=size_max,
        max_queries=50_000,
        setup=None,
        init=None,
        connect=SafeConnect(accept_loss=accept_loss),
        loop=None,
        max_inactive_connection_lifetime=300.0,
        timeout=min(5.0, wait_s),
        server_settings={
            "timezone": "UTC",
            # Ours alone: one that a role or a database has would stay in these sessions after it
            # was lifted there.
            "statement_timeout": f"{command_timeout_s * 1000:.0f}",
            "lock_timeout": "0",
            "idle_session_timeout": "0",
            **server_settings,
        },
    )
