"""Serves by turns what waits for a shard beyond its next calls, so that one caller's flood is not
everybody's queue.
"""

from __future__ import annotations

from collections import deque

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.pressure import Limit
from taximeter.meter.wire.errors import Overloaded, TooManyForAccount


class _Organization:
    """Users with operations that wait, and whose turn is next."""

    __slots__ = ("turns", "users", "waiting")

    def __init__(self) -> None:
        self.users: dict[str, deque[Pending]] = {}
        self.turns: deque[str] = deque()
        self.waiting = 0


class FairQueue:
    """Operations in the order in which they are served: organisations take turns, and within each
    its accounts do. Those of one account keep their order.
    """

    __slots__ = ("_organizations", "_turns", "waiting")

    def __init__(self) -> None:
        self._organizations: dict[str, _Organization] = {}
        self._turns: deque[str] = deque()
        self.waiting = 0

    def waiting_of(self, account: str) -> tuple[int, int]:
        """How many operations of the account wait here, and how many of its organisation."""
        organization = self._organizations.get(account.partition("/")[0])
        if organization is None:
            return 0, 0
        return len(organization.users.get(account, ())), organization.waiting

    def admit(
        self,
        account: str,
        in_front: int,
        queue_max: int,
        account_max: int,
        refused: dict[Limit, int],
    ) -> None:
        """Return when there is room for an operation of the account. Raises Overloaded, and counts
        it in `refused`.

        A full queue has as much room again for those who did not fill it: an account with less
        than a hundredth of it, of an organisation with less than a tenth.
        """
        waiting = in_front + self.waiting
        of_account, of_organization = self.waiting_of(account)
        is_full = waiting >= queue_max
        if of_account >= (max(1, queue_max // 100) if is_full else account_max):
            refused["account"] += 1
            raise TooManyForAccount("account", of_account)
        if is_full and of_organization >= max(1, queue_max // 10):
            refused["organization"] += 1
            raise TooManyForAccount("organization", of_organization)
        if waiting >= 2 * queue_max:
            refused["queue"] += 1
            raise Overloaded(f"{waiting} operations wait for this shard already")

    def add(self, pending: Pending) -> None:
        """Put it behind what its own account has waiting here."""
        account = pending.operation.account
        org_id = account.partition("/")[0]
        organization = self._organizations.get(org_id)
        if organization is None:
            organization = self._organizations[org_id] = _Organization()
            self._turns.append(org_id)
        mine = organization.users.get(account)
        if mine is None:
            mine = organization.users[account] = deque()
            organization.turns.append(account)
        mine.append(pending)
        organization.waiting += 1
        self.waiting += 1

    def take(self) -> Pending:
        """The operation whose turn it is. Raises IndexError when nothing waits."""
        org_id = self._turns.popleft()
        organization = self._organizations[org_id]
        account = organization.turns.popleft()
        mine = organization.users[account]
        pending = mine.popleft()
        if mine:
            organization.turns.append(account)
        else:
            del organization.users[account]
        organization.waiting -= 1
        if organization.waiting:
            self._turns.append(org_id)
        else:
            del self._organizations[org_id]
        self.waiting -= 1
        return pending
