"""Shares out what one process has, so that nobody can take it from the others: requests at a time,
bytes of their bodies, and the connections of an upstream.

How much one may have depends on what is free: an account as much as is left for everybody else, an
organisation three times that. Alone, an account gets half of the whole and an organisation three
quarters; each further one that takes all it can get still leaves some for the next. The last
quarter is for organisations that have little, so that many together cannot shut out who comes next
([decision 0060](../../docs/decisions/0060-shares-of-what-is-free.md)).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Final, Literal, TypeVar

from taximeter.api.web.errors import ApiError

ORG_SHARE: Final = 3
ACCOUNT_SHARE: Final = 1
ALWAYS: Final = 4
"""So many units an account may have whatever is free: sharing so few would be no use."""

KEPT: Final = 4
"""One of so many parts is kept for organisations that have no more than a sixteenth of it."""
LITTLE: Final = 16

Whose = Literal["process", "organization", "account"]
K = TypeVar("K")


class FairShares:
    """Counts the units that accounts take and give back, and refuses who would have too many."""

    def __init__(self, total: int, unit: str, *, always: int = ALWAYS) -> None:
        self.total = total
        self.unit = unit
        self._always = always
        self._kept = total // KEPT
        self._little = max(1, self._kept // LITTLE)
        self.used = 0
        self._orgs: Counter[str] = Counter()
        self._accounts: Counter[tuple[str, str]] = Counter()

    def take(self, org_id: str, user_id: str, amount: int = 0) -> Share:
        """Take this much. Raises ApiError 429."""
        share = Share(self, org_id, user_id)
        share.take_more(amount)
        return share

    def limit_reached(self, org_id: str, user_id: str, amount: int) -> Whose | None:
        """Say whose share is too small for so much more, if anybody's is."""
        free = self.total - self.used
        of_org = self._orgs[org_id] + amount
        if amount > free:
            return "process"
        if of_org > max(self._always, ORG_SHARE * free):
            return "organization"
        if self._accounts[org_id, user_id] + amount > max(self._always, ACCOUNT_SHARE * free):
            return "account"
        if of_org > self._little and amount > free - self._kept:
            return "process"
        return None

    def change(self, org_id: str, user_id: str, amount: int) -> None:
        """Take or, with an amount below zero, give back, without asking."""
        self.used += amount
        _add(self._orgs, org_id, amount)
        _add(self._accounts, (org_id, user_id), amount)


class Share:
    """Holds what one request has taken, until it gives that back."""

    __slots__ = ("_amount", "_org_id", "_shares", "_user_id")

    def __init__(self, shares: FairShares, org_id: str, user_id: str) -> None:
        self._shares = shares
        self._org_id = org_id
        self._user_id = user_id
        self._amount = 0

    def take_more(self, amount: int) -> None:
        """Take more. Raises ApiError 429, with what was taken before still there."""
        whose = self._shares.limit_reached(self._org_id, self._user_id, amount)
        if whose is not None:
            raise _too_much(whose, self._shares.unit)
        self._shares.change(self._org_id, self._user_id, amount)
        self._amount += amount

    def give_back(self) -> None:
        """Give everything back; a second time nothing."""
        if self._amount:
            self._shares.change(self._org_id, self._user_id, -self._amount)
            self._amount = 0


class ConnectionShares:
    """Lets who asks for a unit wait for it: in order, but for those whose share is used up."""

    def __init__(self, total: int) -> None:
        self._shares = FairShares(total, "connections")
        self._waiting: deque[tuple[str, str, asyncio.Future[None]]] = deque()

    @property
    def counts(self) -> dict[str, int]:
        """How many are used, how many there are, and how many wait for one."""
        shares = self._shares
        return {"used": shares.used, "max": shares.total, "waiting": len(self._waiting)}

    async def acquire(self, org_id: str, user_id: str) -> ConnectionShare:
        """Wait for a unit for this account."""
        if self._waiting or self._shares.limit_reached(org_id, user_id, 1) is not None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            place = (org_id, user_id, future)
            self._waiting.append(place)
            self._serve()
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._give_back(org_id, user_id)  # It came in the moment of giving up.
                else:
                    self._waiting.remove(place)
                raise
        else:
            self._shares.change(org_id, user_id, 1)
        return ConnectionShare(self, org_id, user_id)

    def _give_back(self, org_id: str, user_id: str) -> None:
        self._shares.change(org_id, user_id, -1)
        self._serve()

    def _serve(self) -> None:
        passed: deque[tuple[str, str, asyncio.Future[None]]] = deque()
        while self._waiting and self._shares.used < self._shares.total:
            place = self._waiting.popleft()
            org_id, user_id, future = place
            if future.done():
                passed.append(place)  # Cancelled: it takes itself out.
            elif self._shares.limit_reached(org_id, user_id, 1) is None:
                self._shares.change(org_id, user_id, 1)
                future.set_result(None)
            else:
                passed.append(place)
        self._waiting.extendleft(reversed(passed))


class ConnectionShare:
    """Holds one connection, until it is given back."""

    __slots__ = ("_org_id", "_shares", "_user_id")

    def __init__(self, shares: ConnectionShares, org_id: str, user_id: str) -> None:
        self._shares: ConnectionShares | None = shares
        self._org_id = org_id
        self._user_id = user_id

    def release(self) -> None:
        """Give it back; a second time nothing."""
        if self._shares is not None:
            self._shares._give_back(self._org_id, self._user_id)
            self._shares = None


def _add(counter: Counter[K], key: K, amount: int) -> None:
    counter[key] += amount
    if not counter[key]:
        del counter[key]  # Nobody is remembered who has nothing.


def _too_much(whose: Whose, unit: str) -> ApiError:
    words = "all callers" if whose == "process" else f"this {whose}"
    return ApiError.of(
        "too_much_in_progress", details={"limit": whose, "unit": unit}, unit=unit, whose=words
    )
