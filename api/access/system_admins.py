"""Tells who is a system admin by the list in Postgres, besides those whose token has the role."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Final

from taximeter.api.access.memberships import ASK_AGAIN_S, LOOKUP_TIMEOUT_S, TROUBLE
from taximeter.api.access.sessions import Principal
from taximeter.api.sql import ADMINS
from taximeter.settler.books.stores import Pool

logger = logging.getLogger("taximeter.api")

LIST_TTL_S: Final = 2.0
"""How long a list is believed: as long somebody who was removed may go on."""


class SystemAdmins:
    """The list of one issuer. While Postgres does not answer, what it said last is believed for
    `outage_s`: whoever is listed can change nothing then.
    """

    def __init__(
        self,
        pool: Pool,
        issuer: str,
        *,
        outage_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._issuer = issuer
        self._outage_s = outage_s
        self._clock = clock
        self._users: frozenset[str] = frozenset()
        self._addresses: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._ask_again_at = float("-inf")
        self._reading = asyncio.Lock()

    async def of(self, principal: Principal) -> Principal:
        """The caller, as a system admin if they are listed: by their id, or by an address that the
        issuer has verified and that is nobody else's yet, which then becomes theirs for good.
        Raises asyncpg errors.
        """
        if principal.is_system_admin:
            return principal
        await self._refresh()
        if principal.user_id not in self._users and not await self._claims(principal):
            return principal
        return dataclasses.replace(principal, is_system_admin=True)

    async def _claims(self, principal: Principal) -> bool:
        address = principal.email if principal.email_verified else None
        if address is None or address.lower() not in self._addresses:
            return False
        claimed: bool = await self._pool.fetchval(
            ADMINS["claim"], self._issuer, principal.user_id, address
        )
        self._read_at = float("-inf")
        if claimed:
            logger.warning("the listed system admin %s has logged in", principal.user_id)
        return claimed

    async def _refresh(self) -> None:
        if self._is_fresh():
            return
        async with self._reading:  # One caller reads, the others find what it brought.
            if not self._is_fresh():
                await self._read_or_believe()

    def _is_fresh(self) -> bool:
        return self._clock() - self._read_at < LIST_TTL_S

    async def _read_or_believe(self) -> None:
        is_believed = self._clock() - self._read_at < self._outage_s
        if is_believed and self._clock() < self._ask_again_at:
            return
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S if is_believed else None):
                await self._read()
        except TROUBLE as error:
            if not is_believed:
                raise
            logger.warning("the list of system admins is believed: Postgres is away: %r", error)
            self._ask_again_at = self._clock() + ASK_AGAIN_S

    async def _read(self) -> None:
        read_at = self._clock()
        rows = await self._pool.fetch(ADMINS["listed"], self._issuer)
        self._users = frozenset(row["user_id"] for row in rows if row["user_id"] is not None)
        self._addresses = frozenset(row["email"] for row in rows if row["user_id"] is None)
        self._read_at = read_at
