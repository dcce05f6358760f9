"""Which organisations a user belongs to, remembered for a moment: the LLM route asks on every
request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from taximeter.api.queries import IDENTITY
from taximeter.settler.stores import Pool

USERS_REMEMBERED_MAX = 10_000
MEMBERSHIPS_MAX = 500


@dataclass(frozen=True, slots=True)
class Membership:
    """One active membership. Personal is the organisation of one that holds individual credits;
    `plan_code` is that of the organisation's subscription.
    """

    org_id: str
    org_name: str
    role: str
    personal: bool = False
    is_default: bool = False
    plan_code: str | None = None


class Memberships:
    """Active memberships by user, in the order in which they are asked to pay: the user's default,
    then by age, then the personal one. A removal elsewhere is seen after at most the given
    time.

    Only what a user may do is remembered here, never a balance.
    """

    def __init__(
        self, pool: Pool, ttl_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._ttl_s = ttl_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, tuple[Membership, ...]]] = OrderedDict()

    async def of(self, user_id: str) -> tuple[Membership, ...]:
        """The user's active memberships, at most MEMBERSHIPS_MAX. Raises asyncpg errors."""
        known = self._known.get(user_id)
        if known is not None and self._clock() - known[0] < self._ttl_s:
            return known[1]
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
            )
            for row in rows
        )
        # "None" is not remembered: a user who was just added should not be told to wait.
        if found and self._ttl_s > 0:
            self._known[user_id] = (read_at, found)
            self._known.move_to_end(user_id)
            if len(self._known) > USERS_REMEMBERED_MAX:
                self._known.popitem(last=False)
        return found

    def forget(self, user_id: str) -> None:
        """Read the user's memberships afresh the next time: called where this process has changed
        them.
        """
        self._known.pop(user_id, None)
