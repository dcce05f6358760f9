"""What the sidecar refuses, as HTTP: a status, a code for programs, a sentence for people.

Sentences are written here and never taken from below, so that nothing of the inside (addresses,
error texts of Redis) reaches a caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from taximeter.meter.wire.errors import (
    AccountNotFound,
    AdmissionPaused,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    OutcomeUnknown,
    Overloaded,
    RequestConflict,
    RequestReplayed,
    ShardFenced,
    StoreOutOfMemory,
    TooManyForAccount,
    TooManyHolds,
    UnknownHold,
)
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.meter.wire.receipt import Receipt

RETRY_AFTER_S: Final = 1
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Refusal(Exception):
    """An answer other than 200. `retry` says that the same request may succeed a little later."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.retry = retry

    def body(self) -> bytes:
        """The JSON of the answer."""
        error = {"code": self.code, "message": self.message, "details": self.details}
        return _encode({"error": error}).encode()


def invalid(field: str, limit: str) -> Refusal:
    """400: a field is not as it must be."""
    details = {"field": field, "limit": limit}
    return Refusal(400, "INVALID_REQUEST", f"{field} must be {limit}", details)


def unavailable(code: str, message: str) -> Refusal:
    """503: nobody's fault who asks; the code says why."""
    return Refusal(503, code, message, retry=True)


DRAINING: Final = unavailable(
    "DRAINING",
    "This sidecar is stopping: it ends holds but takes no new credits. Ask another one.",
)
PRICES_NOT_KNOWN: Final = unavailable(
    "PRICES_NOT_KNOWN",
    "Which price list is in force is not known here yet. Nothing was done: give an amount, or ask"
    " again.",
)
KEYS_UNAVAILABLE: Final = unavailable(
    "KEYS_UNAVAILABLE", "The key is not known here yet, and who keeps the keys does not answer."
)
UNAVAILABLE: Final = unavailable(
    "UNAVAILABLE", "The store of live balances could not be reached, or could not answer."
)
FENCED: Final = unavailable(
    "FENCED",
    "The store of live balances is closed until the settler has checked it. Nothing was done.",
)
_OUT_OF_MEMORY: Final = unavailable(
    "OUT_OF_MEMORY",
    "The store of live balances is full: no credits can be taken, holds can still be ended.",
)
_PAUSED: Final = {
    "backlog": unavailable(
        "BACKLOG",
        "As many charges wait to be settled as may wait: no credits can be taken, holds can still"
        " be ended.",
    ),
    "drain": unavailable(
        "MAINTENANCE",
        "The store of live balances is being drained for maintenance: no credits can be taken,"
        " holds can still be ended.",
    ),
}
_OUTCOME_UNKNOWN: Final = unavailable(
    "OUTCOME_UNKNOWN",
    "No reply came in time: it took effect once or not at all."
    " Repeat it with the same request_id to learn which."
    " What a reserve may have held is given back by itself.",
)
_OVERLOADED: Final = unavailable(
    "OVERLOADED", "Too many operations wait in this sidecar already. Nothing was done."
)
_TOO_MANY: Final = {
    limit: Refusal(
        429,
        "TOO_MANY_WAITING",
        f"Too many operations of this {limit} wait in this sidecar already. Nothing was done.",
        {"limit": limit},
        retry=True,
    )
    for limit in ("account", "organization")
}
INTERNAL: Final = Refusal(500, "INTERNAL", "The sidecar failed; its log says why.")

_NOT_ALLOWED: Final = {
    "opener": "The hold of this request_id was opened by another key or by a process.",
    "charge": "This key may not charge, so it commits no more than its open hold.",
    "progress": "This key may not charge, so it reports no more than its hold.",
}
_LIMITS_OF_SCRIPTS: Final = {
    "balance": f"such that the balance stays within {BALANCE_MAX} millicredits either way",
}


def refusal_of(error: MeterError) -> Refusal:
    """What a refusal of the meter is over HTTP."""
    match error:
        case InsufficientCredits():
            return _insufficient(error)
        case InvalidRequest():
            return _invalid(error)
        case NotAllowed():
            return Refusal(
                403, "PERMISSION_DENIED", _NOT_ALLOWED[error.right], {"right": error.right}
            )
        case RequestConflict() if error.outcome.state == "foreign":
            message = "This request_id is in use by another user."
            return Refusal(409, "CONFLICT", message, {"request_id": error.outcome.request_id})
        case RequestConflict():
            message = f"This request_id is {error.outcome.state} already, with other parameters."
            return Refusal(409, "CONFLICT", message, _recorded(error.outcome))
        case RequestReplayed():
            return replayed(error.outcome)
        case AccountNotFound():
            details = {"org_id": error.org_id, "user_id": error.user_id}
            return Refusal(
                404, "ACCOUNT_NOT_FOUND", "No credits were ever allocated to this user.", details
            )
        case UnknownHold():
            return unknown_hold(error.request_id)
        case ShardFenced():
            return FENCED
        case StoreOutOfMemory():
            return _OUT_OF_MEMORY
        case AdmissionPaused():
            return _PAUSED[error.reason]
        case NotConfirmed():
            return not_confirmed(error.wait, error.missing)
        case OutcomeUnknown():
            return _OUTCOME_UNKNOWN
        case TooManyForAccount():
            return _TOO_MANY[error.limit]
        case TooManyHolds():
            return Refusal(
                429,
                "TOO_MANY_HOLDS",
                f"The user has {error.limit} requests open, as many as one may have. Nothing was"
                " done; try again when one has ended.",
                {"limit": "open_holds", "open_holds_max": error.limit},
                retry=True,
            )
        case Overloaded():
            return _OVERLOADED
        case _:
            return UNAVAILABLE


def not_confirmed(wait: str, missing: str) -> Refusal:
    """503: done on one server, and not as safe as the operator wants what is answered to be."""
    return Refusal(
        503,
        "OUTCOME_UNKNOWN",
        f"It was done, but not confirmed in time: {missing}. It can still be lost with its server."
        " Repeat it with the same request_id: nothing is done twice.",
        {"wait": wait, "missing": missing},
        retry=True,
    )


def replayed(outcome: Receipt) -> Refusal:
    """409: the same was asked for before. Nothing may be sent upstream for it again, and a gateway
    that looks at the status alone must not; `details` has what became of the first.
    """
    message = f"This request_id was let through before and is {outcome.state}."
    return Refusal(409, "REPLAYED", message, _recorded(outcome))


def unknown_hold(request_id: str) -> Refusal:
    """404: nothing is open or remembered under this id."""
    return Refusal(
        404,
        "UNKNOWN_HOLD",
        "This request_id is neither open nor remembered.",
        {"request_id": request_id},
    )


def _recorded(outcome: Receipt) -> dict[str, object]:
    return {
        "request_id": outcome.request_id,
        "state": outcome.state,
        "reserved_millicredits": outcome.reserved,
        "charged_millicredits": outcome.charged,
        "available_millicredits": outcome.available,
        "held_millicredits": outcome.held,
    }


def _insufficient(error: InsufficientCredits) -> Refusal:
    details = {
        "limit": "user_balance",
        "need_millicredits": error.need,
        "have_millicredits": error.have,
        "held_millicredits": error.held,
    }
    if error.only_holds_in_the_way:
        message = "Open requests hold the credits that this one needs; try again when they end."
        return Refusal(429, "HOLDS_IN_THE_WAY", message, details, retry=True)
    return Refusal(402, "INSUFFICIENT_CREDITS", "The user's balance is too low.", details)


def _invalid(error: InvalidRequest) -> Refusal:
    """A field of the caller's, or a stored record that a script could not read: not their fault."""
    if error.field in ("account", "record"):
        return UNAVAILABLE
    limit = _LIMITS_OF_SCRIPTS.get(error.field, error.limit)
    return invalid(error.field, limit)
