"""Lets whoever develops be anybody, with the key of dev mode. Nothing makes one of these outside of
dev mode, and no other mode accepts what its key signs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from taximeter.api.access.dev_tokens import DevKey
from taximeter.api.sign_in.tokens import Tokens
from taximeter.api.sql import BROWSER_SESSIONS
from taximeter.meter.wire.limits import check_user_id
from taximeter.settler.books.stores import Pool

SHOWN_MAX = 50


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is known, and where: "Acme Research, admin"."""

    user_id: str
    email: str | None
    places: list[str]


class DevPeople:
    """Who there is to choose from, and tokens for whoever was chosen. `admin_role` makes a system
    admin.
    """

    def __init__(self, pool: Pool, key: DevKey, *, admin_role: str, lives_s: int) -> None:
        self._pool = pool
        self._key = key
        self._admin_role = admin_role
        self._lives_s = lives_s

    async def listed(self) -> list[Person]:
        """Members of organisations, those first who came last. Raises asyncpg errors."""
        rows = await self._pool.fetch(BROWSER_SESSIONS["people"], SHOWN_MAX)
        return [Person(row["user_id"], row["email"], row["places"]) for row in rows]

    def tokens(self, user_id: str, *, system_admin: bool) -> Tokens:
        """For anybody, known or not. Raises InvalidRequest for what is no user's id."""
        roles = (self._admin_role,) if system_admin else ()
        token = self._key.mint(check_user_id(user_id), ttl_s=self._lives_s, roles=roles)
        now = time.time()
        return Tokens(token, made_at=now, ends_at=now + self._lives_s)
