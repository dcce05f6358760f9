"""Reads live balances for answers, never from a cache, and makes live what was given before the
answer leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg import Record
from redis.exceptions import RedisError

from taximeter.api.billing.views import AllocationView, allocation_view
from taximeter.api.web.background import TaskTracker
from taximeter.meter import Balance, Meter, MeterError
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.accounts import Account
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.live_hold import NotTaking, mark_of
from taximeter.settler.moves.relay import bring_up_to_date

logger = logging.getLogger("taximeter.api")

APPLY_TIMEOUT_S: Final = 2.0
"""How long an answer waits for the live side. What did not get there in time follows by itself."""


@dataclass(frozen=True, slots=True)
class LiveBalances:
    """The live side of the books. `meter` gives the meter, or raises MeterError while Redis is
    away.
    """

    stores: Stores
    tracker: TaskTracker
    meter: Callable[[], Awaitable[Meter]]

    async def apply_now(self, org_id: str, *user_ids: str) -> bool:
        """Bring the live balances of these users to what is committed, instead of with the
        settler's next run; False when that was not possible now: the settler will.

        Entries are numbered and applied once, whoever sends them. Call it after the commit, and
        with no connection in hand: it takes one itself.
        """
        # Not cancelled when the time is over: that would cut a query off in the middle, and a
        # Postgres driver's connection does not always come out of it whole. It goes on, since it
        # has to be done.
        work = self.tracker.spawn(self._apply(org_id, user_ids))
        done, _ = await asyncio.wait({work}, timeout=APPLY_TIMEOUT_S)
        if not done:
            logger.warning("live balances follow later: not within %.0f s", APPLY_TIMEOUT_S)
            return False
        return work.result()

    async def _apply(self, org_id: str, user_ids: Sequence[str]) -> bool:
        try:
            mark = await mark_of(self.stores, org_id)
            accounts = [(org_id, user_id) for user_id in user_ids]
            return await bring_up_to_date(self.stores, mark, accounts)
        except (
            NotTaking,
            RedisError,
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
        ) as error:
            logger.warning("live balances follow later: %r", error)
            return False

    async def made_live(self, org_id: str, allocation: AllocationView) -> AllocationView:
        """The allocation with its live balance, after everything that is committed has reached
        that; `live` is false, and the figures are those of the books, when the live side is away.
        """
        user_id = allocation.user_id
        if not await self.apply_now(org_id, user_id):
            return allocation
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                balance = (await self.read([(org_id, user_id)])).get((org_id, user_id))
        except TimeoutError:
            balance = None
        if balance is None:
            return allocation
        return allocation.model_copy(
            update={
                "remaining_credits": credits_of(balance.available + balance.held),
                "held_credits": credits_of(balance.held),
                "live": True,
            }
        )

    async def read(self, accounts: Sequence[Account]) -> dict[Account, Balance]:
        """The balances of these (organisation, user) accounts, without those that cannot be read
        now: the answer says which figures are live, and shows the others as settled.
        """
        if not accounts:
            return {}
        try:
            meter = await self.meter()
        except MeterError:
            return {}
        found = await asyncio.gather(
            *(meter.balance(org_id, user_id) for org_id, user_id in accounts),
            return_exceptions=True,
        )
        balances = {}
        for account, balance in zip(accounts, found, strict=True):
            if isinstance(balance, Balance):
                balances[account] = balance
            elif not isinstance(balance, MeterError):
                raise balance
        return balances


def with_balance(row: Record, org_id: str, balances: Mapping[Account, Balance]) -> AllocationView:
    """An allocation with its live balance, where that is known."""
    balance = balances.get((org_id, row["user_id"])) if row["is_active"] else None
    if balance is None:
        return allocation_view(row)
    return allocation_view(row, remaining=balance.available + balance.held, held=balance.held)
