"""Ends a hold whatever happens: Hold, the async context manager that `Meter.reserve` returns."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from taximeter.meter.wire.limits import check_amount
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.usage import Usage


class HoldKeeper(Protocol):
    """What a hold needs of the meter that opened it: see Meter, which is one."""

    async def commit(
        self, org_id: str, user_id: str, request_id: str, amount: int, *, usage: Usage | None
    ) -> Receipt: ...

    async def release(self, org_id: str, user_id: str, request_id: str) -> Receipt: ...

    async def touch(
        self,
        org_id: str,
        user_id: str,
        request_id: str,
        progress: int,
        *,
        ttl_s: float,
        usage: Usage | None,
    ) -> Receipt: ...


class Hold:
    """Credits kept for one request. Amounts are millicredits; `available` and `held` are as of the
    reserve.

        async with await meter.reserve("org", "user", 500) as hold:
            ...
            hold.spent(120)

    Leaving the block commits what was `spent`, or releases the hold if nothing was; so does an
    exception and so does cancellation (the commit then goes on in the background, and
    `Meter.aclose` waits for it). If this process dies instead, the hold ends at its deadline and
    what `touch` reported is charged.
    """

    __slots__ = (
        "_meter",
        "_receipt",
        "_spent",
        "_usage",
        "amount",
        "available",
        "held",
        "org_id",
        "request_id",
        "user_id",
    )

    def __init__(
        self,
        meter: HoldKeeper,
        org_id: str,
        user_id: str,
        request_id: str,
        amount: int,
        available: int,
        held: int,
    ) -> None:
        self._meter = meter
        self.org_id = org_id
        self.user_id = user_id
        self.request_id = request_id
        self.amount = amount
        self.available = available
        self.held = held
        self._spent: int | None = None
        self._usage: Usage | None = None
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt | None:
        """What became of it, once it was committed or released here."""
        return self._receipt

    def spent(self, amount: int, usage: Usage | None = None) -> None:
        """Record the actual amount so far, to be committed when the block is left. Raises
        InvalidRequest.
        """
        self._spent = check_amount(amount, "spent")
        self._usage = usage or self._usage

    async def commit(self, amount: int, *, usage: Usage | None = None) -> Receipt:
        """Charge the actual amount and give the rest back. See Meter.commit."""
        self.spent(amount, usage)
        self._receipt = await self._meter.commit(
            self.org_id, self.user_id, self.request_id, amount, usage=self._usage
        )
        return self._receipt

    async def release(self) -> Receipt:
        """Give everything back. See Meter.release."""
        self._receipt = await self._meter.release(self.org_id, self.user_id, self.request_id)
        return self._receipt

    async def touch(
        self, progress: int = 0, *, ttl_s: float = 60.0, usage: Usage | None = None
    ) -> Receipt:
        """Heartbeat: see Meter.touch."""
        return await self._meter.touch(
            self.org_id, self.user_id, self.request_id, progress, ttl_s=ttl_s, usage=usage
        )

    async def __aenter__(self) -> Hold:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._receipt is not None:
            return
        if self._spent is None:
            await self.release()
        else:
            await self.commit(self._spent)
