"""Live balances for answers that show what remains: never from a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taximeter.api.services import Services
from taximeter.meter import Balance, MeterError

Account = tuple[str, str]


async def live_balances(services: Services, accounts: Sequence[Account]) -> dict[Account, Balance]:
    """The balances of these (organisation, user) accounts, without those that cannot be read now:
    the answer says which figures are live, and shows the others as settled.
    """
    if not accounts:
        return {}
    try:
        meter = await services.meters.get()
    except MeterError:
        return {}
    found = await asyncio.gather(
        *(meter.balance(org_id, user_id) for org_id, user_id in accounts), return_exceptions=True
    )
    balances = {}
    for account, balance in zip(accounts, found, strict=True):
        if isinstance(balance, Balance):
            balances[account] = balance
        elif not isinstance(balance, MeterError):
            raise balance
    return balances
