"""Remembers for a moment which organisations a user belongs to: the LLM route asks on every
request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from taximeter.api.sql import IDENTITY
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.settler.books.stores import Pool

logger = logging.getLogger("taximeter.api")

USERS_REMEMBERED_MAX = 10_000
MEMBERSHIPS_MAX = 500
LOOKUP_TIMEOUT_S: Final = 1.0
"""How long Postgres may take to confirm what is known already."""
ASK_AGAIN_S: Final = 1.0
"""How often a Postgres that does not answer is asked."""
TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Membership:
    """One active membership. Personal is the organisation of one that holds individual credits;
    `plan_code` is that of the organisation's subscription; `has_allocation` says whether anything
    was given to the user there, and `suspended` that nothing of it can be spent.
    """

    org_id: str
    org_name: str
    role: str
    personal: bool = False
    is_default: bool = False
    plan_code: str | None = None
    has_allocation: bool = True
    suspended: bool = False


class Memberships:
    """Active memberships by user, in the order in which they are asked to pay: the user's default,
    then those with an allocation before those without one, by age and the personal one last. A
    removal elsewhere is seen after at most the given
    time.

    Only what a user may do is remembered here, never a balance. While Postgres does not answer
    this process, what it said last is believed for `outage_s`, so that users with credits go on:
    also somebody whom others remove meanwhile, whose credits are gone by then.
    """

    def __init__(
        self,
        pool: Pool,
        ttl_s: float,
        *,
        outage_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._ttl_s = ttl_s
        self._outage_s = outage_s
        self._clock = clock
        self._ask_again_at = float("-inf")
        self._known: BoundedCache[str, tuple[float, tuple[Membership, ...]]] = BoundedCache(
            USERS_REMEMBERED_MAX
        )

    async def of(self, user_id: str) -> tuple[Membership, ...]:
        """The user's active memberships, at most MEMBERSHIPS_MAX. Raises asyncpg errors."""
        known = self._known.get(user_id)
        if known is None:
            return await self._read(user_id)
        read_at, memberships = known
        age_s = self._clock() - read_at
        if age_s < self._ttl_s:
            return memberships
        if age_s >= self._outage_s:
            return await self._read(user_id)
        if self._clock() < self._ask_again_at:
            return memberships
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await self._read(user_id)
        except TROUBLE as error:
            if self._clock() >= self._ask_again_at:
                logger.warning("memberships are believed while Postgres is away: %r", error)
            self._ask_again_at = self._clock() + ASK_AGAIN_S
            return memberships

    async def payer(self, user_id: str) -> Membership | None:
        """Who pays where nobody was named; None without any membership. What was given a moment ago
        counts at once where there is a choice. Raises asyncpg errors.
        """
        memberships = await self.of(user_id)
        if len(memberships) > 1 and not memberships[0].has_allocation:
            try:
                memberships = await self._read(user_id)
            except TROUBLE:
                logger.warning("memberships are believed while Postgres is away")
        return memberships[0] if memberships else None

    async def _read(self, user_id: str) -> tuple[Membership, ...]:
        read_at = self._clock()
        rows = await self._pool.fetch(IDENTITY["memberships"], user_id, MEMBERSHIPS_MAX)
        found = tuple(
            Membership(
                row["org_id"],
                row["org_name"],
                row["role"],
                row["personal"],
                row["is_default"],
                row["plan_code"],
                row["has_allocation"],
                row["suspended"],
            )
            for row in rows
        )
        # "None" is not remembered: a user who was just added should not be told to wait.
        if not found:
            self._known.pop(user_id, None)
        elif self._ttl_s > 0 or self._outage_s > 0:
            self._known.keep(user_id, (read_at, found))
        return found

    def forget(self, user_id: str) -> None:
        """Read the user's memberships afresh the next time: called where this process has changed
        them.
        """
        self._known.pop(user_id, None)
