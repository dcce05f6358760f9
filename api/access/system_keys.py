"""Checks keys of the installation: what an operator's automation shows the admin API, and no
session.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Final

from taximeter.api.access.key_text import read_key
from taximeter.api.access.sessions import KEY_ACTOR, Principal
from taximeter.api.sql import SYSTEM_KEYS
from taximeter.api.web.errors import ApiError
from taximeter.settler.books.stores import Pool

_ALL: Final = "admin"
_READ: Final = "read"
RIGHTS: Final[Mapping[str, str]] = {
    _ALL: "everything that a system admin may",
    _READ: "every GET",
    "credits": "purchases, allocations, transfers, refunds, terms",
    "history": "the billing history and invoices",
    "keys": "API keys of organisations",
    "members": "members and invitations",
    "receivers": "webhooks",
    "organizations": "list, change, suspend and delete organisations",
    "subscriptions": "subscriptions and plans",
}
"""What a key may be for. All but the first two are the parts of the admin API of that name."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


def may(rights: frozenset[str], method: str, tags: frozenset[str]) -> bool:
    """Whether these rights are for a route of these parts of the API."""
    if _ALL in rights or rights & tags:
        return True
    return _READ in rights and method in _SAFE_METHODS


class SystemKeys:
    """The keys in Postgres, asked for on each request, so that a revoked one ends at once. One that
    is made up is refused without a look: `seal` is what check digits are made with.
    """

    def __init__(self, pool: Pool, seal: Callable[[], Awaitable[bytes]]) -> None:
        self._pool = pool
        self._seal = seal

    async def caller(self, key: str, method: str, tags: frozenset[str]) -> Principal:
        """The key as a system admin. Raises ApiError 401 for one that is not good, 403 for what it
        is not for, asyncpg errors.
        """
        text = key.encode("utf-8", "surrogatepass")
        read = read_key(text, await self._seal())
        row = None
        if read is not None and read.is_sealed:
            row = await self._pool.fetchrow(SYSTEM_KEYS["find"], read.key_id)
        if (
            read is None
            or row is None
            or not hmac.compare_digest(row["digest"], sha256(text).digest())
        ):
            raise ApiError(401, "The key is not valid", headers={"WWW-Authenticate": "Bearer"})
        if row["is_to_note"]:
            await self._pool.execute(SYSTEM_KEYS["note_use"], read.key_id)
        rights = frozenset(row["rights"])
        if not may(rights, method, tags):
            raise ApiError(
                403,
                f"This key is for {', '.join(sorted(rights))} alone",
                details={"rights": sorted(rights)},
            )
        return Principal(
            user_id=f"{KEY_ACTOR}{read.key_id}",
            email=None,
            name=row["name"],
            is_system_admin=True,
            expires_at=row["expires_at"],
        )
