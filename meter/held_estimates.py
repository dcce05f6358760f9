"""Decides how much of an estimate is held: all of it, or less, so that a few requests that allow
far more output than they will use do not lock a whole balance.

What is charged in the end is never cut: a commit applies the actual amount, also above the hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final

from taximeter.meter.client import Meter
from taximeter.meter.hold import Hold
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.errors import InsufficientCredits, RequestConflict
from taximeter.meter.wire.usage import Usage

ACCOUNTS_REMEMBERED_MAX: Final = 10_000
OPEN_END_SHARE: Final = Decimal("0.125")
"""Of what a user has, the part that one request without a limit of output may hold: so about eight
of them fit.
"""


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """What is held for an estimate, in millicredits.

    cap: at most this much for one request. share: at most this part of what the user has, counting
    what open holds keep, but never less than `floor`. Without both an estimate is held in full, and
    then requests that keep to their estimates never take a balance below zero.

    With a share of 1/k, about k requests hold a balance at a time, however large their estimates
    are. The price of that: each of them may cost up to its estimate, so together they may take the
    balance below zero by the sum of what they cost more than they hold. Nothing is admitted then,
    until credits are added.
    """

    cap: int | None = None
    share: Decimal | None = None
    floor: int = 1000

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ValueError("cap must be at least 1 millicredit")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError("share must be more than 0 and at most 1")
        if self.floor < 1:
            raise ValueError("floor must be at least 1 millicredit")

    def hold_for(self, estimate: int, total: int, least: int | None = None) -> int:
        """Millicredits to hold for this estimate, for a user who has `total`.

        `least` is for requests with an open end: that much is held as an estimate of its own, and
        of what the end may cost besides only OPEN_END_SHARE of what the user has.
        """
        if least is not None and least < estimate:
            most = self.hold_for(estimate, total)
            return max(self.hold_for(least, total), min(most, int(total * OPEN_END_SHARE)))
        amount = estimate if self.cap is None else min(estimate, self.cap)
        if self.share is None:
            return amount
        return min(amount, max(self.floor, int(total * self.share)))


class EstimatedHolds:
    """Reserves for estimates, as a policy says.

    What a user has is read once and after that known from the answers of the meter, so that the
    usual reserve is one call as ever. A figure that has become too old costs one more call.
    """

    def __init__(self, policy: HoldPolicy | None = None) -> None:
        self.policy = policy or HoldPolicy()
        self._totals: BoundedCache[tuple[str, str], int] = BoundedCache(ACCOUNTS_REMEMBERED_MAX)

    async def reserve(
        self,
        meter: Meter,
        org_id: str,
        user_id: str,
        estimate: int,
        *,
        least: int | None = None,
        request_id: str | None = None,
        ttl_s: float = 60.0,
        usage: Usage | None = None,
        opener: str = "",
    ) -> Hold:
        """Meter.reserve for as much of the estimate as the policy says. Raises what it raises;
        `need` of InsufficientCredits is what would have been held.

        `least` is what must be held of an estimate with an open end: see HoldPolicy. A repeat is a
        repeat also when the share is another amount by now.
        """
        account = (org_id, user_id)
        depends = self.policy.share is not None or (least is not None and least < estimate)
        amount = await self._amount(meter, account, estimate, least)
        reserve = partial(
            meter.reserve,
            org_id,
            user_id,
            request_id=request_id,
            ttl_s=ttl_s,
            usage=usage,
            opener=opener,
        )
        try:
            hold = await reserve(amount)
        except RequestConflict as error:
            if not depends:
                raise
            # Only the amount may differ: asked for the one on record, it is a replay or refused.
            hold = await reserve(error.outcome.reserved)
        except InsufficientCredits as error:
            total = error.have + error.held
            smaller = self.policy.hold_for(estimate, total, least)
            if depends:
                self._remember(account, total)
            if smaller >= amount:
                raise
            hold = await reserve(smaller)
        if depends:
            self._remember(account, hold.available + hold.held)
        return hold

    async def _amount(
        self, meter: Meter, account: tuple[str, str], estimate: int, least: int | None
    ) -> int:
        total = self._totals.get(account, 0)
        is_share = self.policy.share is not None and estimate > self.policy.floor
        is_open = least is not None and least < estimate
        if (is_share or is_open) and not total:
            balance = await meter.balance(*account)
            total = balance.available + balance.held
        return self.policy.hold_for(estimate, total, least)

    def _remember(self, account: tuple[str, str], total: int) -> None:
        self._totals.keep(account, total)
