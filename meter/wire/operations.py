"""Writes one operation of a batch as script arguments, and reads its reply."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.errors import (
    AdmissionPaused,
    InsufficientCredits,
    InvalidRequest,
    NotAllowed,
    RequestConflict,
    StoreOutOfMemory,
    TooManyHolds,
    UnknownHold,
)
from taximeter.meter.wire.hold_record import Asker, owner_of
from taximeter.meter.wire.ids import new_owner
from taximeter.meter.wire.keys import request_field
from taximeter.meter.wire.limits import (
    check_amount,
    check_opener,
    check_request_id,
    checked_account,
)
from taximeter.meter.wire.payload_codes import coded
from taximeter.meter.wire.receipt import Receipt, State
from taximeter.meter.wire.usage import Usage

Op = Literal["reserve", "commit", "release", "charge", "touch", "void", "expire"]
"""What callers ask for, and two that the client uses on its own: `void` gives back what the reserve
of this owner took or takes yet, `expire` ends a hold that was kept outside of Redis.
"""

TAKES_CREDIT: frozenset[str] = frozenset({"reserve", "charge"})
"""Refused when Redis is out of memory, unless done before; all others go through `resolve` then."""


class Operation(NamedTuple):
    """What a caller wants done to one request of one account: the seven ARGV, in their order.

    `key` is `org/request`, amounts are millicredits. `owner` marks one call of reserve: its own
    retry after a lost reply is told OK, anybody else REPLAYED. After an `O` it says who asks, and
    before that what rights of an asker they have.
    """

    op: Op
    account: str
    key: str
    amount: int = 0
    ttl_ms: int = 0
    owner: str = ""
    payload: str = ""

    @property
    def request_id(self) -> str:
        """The id as the caller gave it, without its organisation."""
        return self.key.partition("/")[2]


class Reply(NamedTuple):
    """One reply, parsed. `field` names what was INVALID, why it is PAUSED or what was NOT_ALLOWED;
    `limit` is how many holds there may be (TOO_MANY_HOLDS); figures are 0 where the code has none.
    """

    code: Code
    available: int = 0
    held: int = 0
    state: State = "open"
    reserved: int = 0
    charged: int = 0
    field: str = ""
    limit: int = 0


_CODES: dict[bytes, Code] = {str(code.value).encode(): code for code in Code}


OK_REPLY = b"1 "
"""First bytes of nearly every reply, so that the usual case is read without a detour."""


def ok_balance(raw: bytes) -> tuple[int, int]:
    """(available, held) of an OK reply."""
    _, available, held = raw.split(b" ")
    return int(available), int(held)


def parse_reply(raw: bytes) -> Reply:
    """Read one reply. Raises ValueError, KeyError or IndexError when it is none of the script's."""
    words = raw.split(b" ")
    code = _CODES[words[0]]
    if len(words) == 3:
        return Reply(code, int(words[1]), int(words[2]))
    if code is Code.NOT_LOADED:
        return Reply(code)
    if code in (Code.INVALID, Code.PAUSED, Code.NOT_ALLOWED):
        return Reply(code, field=words[1].decode())
    if code is Code.LATE:
        return Reply(code, int(words[1]), int(words[2]), charged=int(words[3]))
    if code is Code.TOO_MANY_HOLDS:
        return Reply(code, int(words[1]), int(words[2]), limit=int(words[3]))
    available, held, reserved, charged = (int(words[place]) for place in (1, 2, 4, 5))
    return Reply(code, available, held, cast(State, words[3].decode()), reserved, charged)


# Without the function of Python's that a NamedTuple has for it: these are made for every request.
_new = tuple.__new__
_CHARGE_NOTHING: frozenset[Op] = frozenset({"reserve", "touch", "release", "void"})
_STATE_AFTER: dict[Op, State] = {
    "reserve": "open",
    "touch": "open",
    "commit": "committed",
    "charge": "charged",
    "release": "released",
    "void": "released",
    "expire": "expired",
}


def ok_receipt(operation: Operation, available: int, held: int) -> Receipt:
    """What became of the request of an operation that was answered OK."""
    op, _, key, amount, *_ = operation
    charged = 0 if op in _CHARGE_NOTHING else amount
    reserved = amount if op == "reserve" else 0
    request_id = key.partition("/")[2]
    return _new(
        Receipt, (request_id, _STATE_AFTER[op], reserved, charged, available, held, False, False)
    )


def known_receipt(operation: Operation, reply: Reply) -> Receipt:
    """What became of the request of an operation that was answered LATE, REPLAYED or CONFLICT."""
    late = reply.code is Code.LATE
    return Receipt(
        operation.request_id,
        "committed" if late else reply.state,
        reply.reserved,
        reply.charged,
        reply.available,
        reply.held,
        replayed=reply.code is Code.REPLAYED,
        late=late,
    )


def raise_refusal(operation: Operation, reply: Reply) -> None:
    """Raise what a refused reply means; return when it is not a refusal."""
    if reply.code is Code.INSUFFICIENT:
        raise InsufficientCredits(operation.amount, reply.available, reply.held)
    if reply.code is Code.CONFLICT:
        raise RequestConflict(known_receipt(operation, reply))
    if reply.code is Code.UNKNOWN_HOLD:
        raise UnknownHold(operation.request_id)
    if reply.code is Code.NOT_ALLOWED:
        raise NotAllowed(operation.request_id, reply.field)
    if reply.code is Code.PAUSED:
        if reply.field == "memory":
            raise StoreOutOfMemory()
        raise AdmissionPaused(reply.field)
    if reply.code is Code.TOO_MANY_HOLDS:
        raise TooManyHolds(reply.limit)
    if reply.code is Code.INVALID:
        raise InvalidRequest(reply.field, "what the script accepts (see lua/operate.lua)")


def _payload_of(op: Op, usage: Usage) -> str:
    """As it travels: what a hold keeps is short."""
    return coded(usage.payload()) if op in ("reserve", "touch") else usage.payload()


def operation_of(
    op: Op,
    org_id: str,
    user_id: str,
    request_id: str,
    amount: int,
    ttl_ms: int,
    usage: Usage | None,
    opener: str = "",
    asker: Asker | None = None,
) -> Operation:
    """The operation, checked; a reserve gets an owner of its own, and may name its `opener`. What
    is not a reserve may be confined to the rights of an `asker`. Raises InvalidRequest.
    """
    if op == "reserve":
        owner = owner_of(new_owner(), check_opener(opener))
    else:
        owner = "" if asker is None else asker.mark
    return _new(
        Operation,
        (
            op,
            checked_account(org_id, user_id),
            request_field(org_id, check_request_id(request_id)),
            check_amount(amount),
            ttl_ms,
            owner,
            "" if usage is None else _payload_of(op, usage),
        ),
    )
