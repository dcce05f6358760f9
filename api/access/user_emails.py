"""Keeps the address that the verified sessions of a user name."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import asyncpg

from taximeter.api.access.sessions import Principal
from taximeter.api.sql import USERS
from taximeter.api.web.background import TaskTracker
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.settler.books.stores import Connection, Pool

logger = logging.getLogger("taximeter.api")

USERS_REMEMBERED_MAX = 10_000


async def emails_of(conn: Connection, org_id: str, user_ids: Iterable[str]) -> dict[str, str]:
    """The addresses that are known of these users, as far as they are members of the organisation:
    nobody's address is shown to whoever knows their id. Raises asyncpg errors.
    """
    rows = await conn.fetch(USERS["emails"], org_id, list(user_ids))
    return {row["user_id"]: row["email"] for row in rows}


class EmailNotes:
    """Notes the addresses of users whose sessions were found good.

    Notes are written beside the request, which neither waits for them nor fails with them: one that
    is lost is written with the user's next token. An address counts if the issuer has verified it.
    """

    def __init__(self, pool: Pool, tracker: TaskTracker) -> None:
        self._pool = pool
        self._tracker = tracker
        self._known: BoundedCache[str, str] = BoundedCache(USERS_REMEMBERED_MAX)

    def note(self, principal: Principal) -> None:
        """Note this user's address, in the background, unless it is known."""
        email = principal.email if principal.email_verified else None
        if email is not None and self._known.get(principal.user_id) != email:
            self._tracker.spawn(self._note(principal.user_id, email))

    async def _note(self, user_id: str, email: str) -> None:
        self._known.keep(user_id, email)
        try:
            await self._pool.execute(USERS["note_user"], user_id, email)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._known.pop(user_id, None)
            logger.warning("the address of a user was not noted; their next token brings it again")
