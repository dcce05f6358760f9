"""Lists what the meter can refuse, and why. Every error is a MeterError; refusals carry the figures
a caller needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from taximeter.meter.wire.receipt import Receipt


class MeterError(Exception):
    """Base of everything that the meter raises."""


class InvalidRequest(MeterError, ValueError):
    """A value is outside its limit. Nothing was sent and nothing has changed."""

    def __init__(self, field: str, limit: str) -> None:
        super().__init__(f"{field} must be {limit}")
        self.field = field
        self.limit = limit


class InsufficientCredits(MeterError):
    """The account cannot pay `need`. Nothing was taken. Amounts in millicredits."""

    def __init__(self, need: int, have: int, held: int) -> None:
        super().__init__(
            f"need {need} millicredits, have {have} ({held} more are held by open requests)"
        )
        self.need = need
        self.have = have
        self.held = held

    @property
    def only_holds_in_the_way(self) -> bool:
        """True when the request would fit if every open hold were released: worth a retry, unlike
        an empty account.
        """
        return self.have + self.held >= self.need


class AccountNotFound(MeterError):
    """Postgres knows no such account: nothing was ever allocated to this user."""

    def __init__(self, org_id: str, user_id: str) -> None:
        super().__init__(
            f"no credits were ever allocated to user {user_id!r} in organisation {org_id!r}"
        )
        self.org_id = org_id
        self.user_id = user_id


class RequestReplayed(MeterError):
    """This request id was reserved before. `outcome` says what became of it; it never authorises
    new upstream work.
    """

    def __init__(self, outcome: Receipt) -> None:
        super().__init__(f"request {outcome.request_id} was reserved before and is {outcome.state}")
        self.outcome = outcome


class RequestConflict(MeterError):
    """This request id was used with other parameters, or its hold ended another way. Nothing has
    changed.
    """

    def __init__(self, outcome: Receipt) -> None:
        super().__init__(
            f"request {outcome.request_id} is {outcome.state}"
            f" with {outcome.reserved} reserved and {outcome.charged} charged"
        )
        self.outcome = outcome


class UnknownHold(MeterError):
    """Release or touch of a request id that is neither open nor remembered."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id} is neither open nor remembered")
        self.request_id = request_id


class NotAllowed(MeterError):
    """Who asks for this has no right to it. Nothing has changed.

    `right` says what was missing: `opener` (the hold was opened by another key or by a process),
    `charge` (a commit above the hold, or after its end, charges what nobody has held), `progress`
    (more than the hold was reported).
    """

    def __init__(self, request_id: str, right: str) -> None:
        why = {
            "opener": "its hold was opened by another key or process",
            "charge": "that would charge more than its hold",
            "progress": "that is more than its hold",
        }
        super().__init__(f"request {request_id}: {why.get(right, right)}")
        self.request_id = request_id
        self.right = right


class WrongCell(MeterError):
    """The organisation lives in another cell. Nothing was done here: ask there, under the same
    request id. `api_url` and `sidecar_url` are the addresses of its API and of its sidecar.
    """

    def __init__(self, org_id: str, cell: str, api_url: str, sidecar_url: str) -> None:
        super().__init__(f"organisation {org_id} lives in cell {cell}: {api_url}")
        self.org_id = org_id
        self.cell = cell
        self.api_url = api_url
        self.sidecar_url = sidecar_url


class OrganizationMoves(MeterError):
    """The organisation is being moved to another cell, which takes seconds. Nothing was done; try
    again under the same request id.
    """

    def __init__(self, org_id: str) -> None:
        super().__init__(f"organisation {org_id} is being moved to another cell")
        self.org_id = org_id


class CellUnknown(MeterError):
    """The organisation is not known here, and the directory of cells does not answer. Nothing was
    done; try again.
    """

    def __init__(self, org_id: str) -> None:
        super().__init__(f"no cell is known for organisation {org_id}, and the directory is away")
        self.org_id = org_id


class Overloaded(MeterError):
    """The queue of this process is full. Nothing was sent; try again later or elsewhere."""


class TooManyForAccount(Overloaded):
    """The queue is full, or more than `account_queue_max` of this account wait, and too many of
    those that wait are of this account or its organisation (`limit`). Nothing was sent.
    """

    def __init__(self, limit: Literal["account", "organization"], waiting: int) -> None:
        super().__init__(f"{waiting} operations of this {limit} wait already")
        self.limit = limit
        self.waiting = waiting


class TooManyHolds(MeterError):
    """The account has as many holds open as it may have (`limit`). Nothing was taken; each hold
    that ends makes room for another.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"the account has {limit} holds open, as many as it may have")
        self.limit = limit


class StoreError(MeterError):
    """Redis could not do what was asked."""


class ShardFenced(StoreError):
    """The shard is closed until the settler's guardian has looked at it. Nothing was done; try
    again in a second.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShardsChanged(ShardFenced):
    """The system has `shards` shards now. Nothing was done; the meter adapts by itself."""

    def __init__(self, shard: int, shards: int, believed: int) -> None:
        super().__init__(f"shard {shard}: there are {shards} shards now, not {believed}")
        self.shards = shards


class UnsafeServer(StoreError):
    """The Redis server is one that credits must not be kept on: it would evict them, or is a
    replica. Nothing was done; its configuration has to change.
    """

    def __init__(self, objections: Sequence[str], server: str = "") -> None:
        """`server` is its name where there are several."""
        super().__init__((f"{server}: " if server else "") + "; ".join(objections))
        self.objections = tuple(objections)


class StoreOutOfMemory(StoreError):
    """Redis is out of memory, so credits cannot be taken. Holds can still be committed and
    released.
    """

    def __init__(
        self, message: str = "Redis is out of memory; holds can still be committed or released"
    ) -> None:
        super().__init__(message)


class AdmissionPaused(StoreError):
    """No credit is taken at the moment; holds can still be committed, touched and released.

    `reason` is `backlog` (as many events wait for Postgres as may wait) or `drain` (an operator
    empties the shard for maintenance). Nothing was done; both end by themselves.
    """

    def __init__(self, reason: str) -> None:
        why = {
            "backlog": "as many charges wait to be settled as may wait",
            "drain": "the shard is drained for maintenance",
        }
        super().__init__(f"no credit is taken at the moment: {why.get(reason, reason)}")
        self.reason = reason


class StoreUnavailable(StoreError):
    """Redis could not be reached in time, or would not take anything. Nothing was done."""


class OutcomeUnknown(StoreError):
    """The call was sent but no reply came in time: it took effect once or not at all. Repeat the
    request id to learn which. A reserve that ended so is given back as soon as Redis answers.
    """


class NotConfirmed(OutcomeUnknown):
    """It was done, but disks or replicas did not confirm it in time, so it may still be lost with
    the server. `missing` says who did not. Repeat the request id: nothing is done twice, and the
    answer waits for them again.
    """

    def __init__(self, wait: str, missing: str) -> None:
        super().__init__(f"it was done, and not confirmed ({wait}): {missing}")
        self.wait = wait
        self.missing = missing
