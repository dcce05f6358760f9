"""Says as HTTP what the sidecar refuses: a status, a code for programs, a sentence for people.

Sentences are written here and never taken from below, so that nothing of the inside (addresses,
error texts of Redis) reaches a caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from taximeter.meter.wire.errors import (
    AccountNotFound,
    CellUnknown,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    RequestConflict,
    RequestReplayed,
    StoreUnavailable,
    TooManyForAccount,
    TooManyHolds,
    UnknownHold,
    WrongCell,
)
from taximeter.meter.wire.http_refusals import HTTP_REFUSALS, HttpCause
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.refusals import REFUSALS, Cause, cause_of

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Refusal(Exception):
    """An answer other than 200. `retry` says that the same request may succeed a little later,
    `cause` names the row of the tables of refusals.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
        cause: Cause | HttpCause,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.retry = retry
        self.cause = cause

    def body(self) -> bytes:
        """The JSON of the answer."""
        error = {"code": self.code, "message": self.message, "details": self.details}
        return _encode({"error": error}).encode()


def http_refusal(
    cause: HttpCause,
    details: Mapping[str, object] | None = None,
    *,
    words: str = "",
    **figures: object,
) -> Refusal:
    """What the table says of a request that never comes to the meter; `words` where a better
    sentence is known than the table's.
    """
    row = HTTP_REFUSALS[cause]
    assert row.sidecar is not None, f"the sidecar never meets {cause}"
    status, code, sentence, _ = row.sidecar
    words = words or sentence.format(**figures)
    return Refusal(status, code, words, details, retry=row.retry, cause=cause)


def invalid(field: str, limit: str) -> Refusal:
    """400: a field is not as it must be."""
    details = {"field": field, "limit": limit}
    return http_refusal("invalid_field", details, field=field, limit=limit)


DRAINING: Final = http_refusal("draining")
ANOTHER_INSTALLATION: Final = http_refusal("another_installation")
PRICES_NOT_KNOWN: Final = http_refusal("prices_not_known")
KEYS_UNAVAILABLE: Final = http_refusal("database_away")
INTERNAL: Final = http_refusal("internal")

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
    cause = cause_of(error)
    if cause == "invalid_request" and isinstance(error, InvalidRequest):
        return _invalid(error)
    said, retry = REFUSALS[cause].sidecar, REFUSALS[cause].retry
    words, details = _filled(error, said.words)
    return Refusal(said.status, said.code, words, details, retry=retry, cause=cause)


def _filled(error: MeterError, words: str) -> tuple[str, dict[str, object]]:
    """The sentence with its figures, and the details of the answer."""
    match error:
        case InsufficientCredits():
            return words, {
                "limit": "user_balance",
                "need_millicredits": error.need,
                "have_millicredits": error.have,
                "held_millicredits": error.held,
            }
        case NotAllowed():
            return words.format(why=_NOT_ALLOWED[error.right]), {"right": error.right}
        case RequestConflict() if error.outcome.state == "foreign":
            request_id = error.outcome.request_id
            return "This request_id is in use by another user.", {"request_id": request_id}
        case RequestConflict() | RequestReplayed():
            return words.format(state=error.outcome.state), _recorded(error.outcome)
        case AccountNotFound():
            return words, {"org_id": error.org_id, "user_id": error.user_id}
        case WrongCell():
            where = {"cell": error.cell, "address": error.sidecar_url}
            return words.format(**where), {"org_id": error.org_id, **where}
        case CellUnknown():
            return words, {"org_id": error.org_id}
        case UnknownHold():
            return words, {"request_id": error.request_id}
        case NotConfirmed():
            return words.format(missing=error.missing), {
                "wait": error.wait,
                "missing": error.missing,
            }
        case TooManyForAccount():
            return words.format(limit=error.limit), {"limit": error.limit}
        case TooManyHolds():
            return words.format(limit=error.limit), {
                "limit": "open_holds",
                "open_holds_max": error.limit,
            }
        case _:
            return words, {}


def replayed(outcome: Receipt) -> Refusal:
    """409: the same was asked for before. Nothing may be sent upstream for it again, and a gateway
    that looks at the status alone must not; `details` has what became of the first.
    """
    return refusal_of(RequestReplayed(outcome))


def _recorded(outcome: Receipt) -> dict[str, object]:
    return {
        "request_id": outcome.request_id,
        "state": outcome.state,
        "reserved_millicredits": outcome.reserved,
        "charged_millicredits": outcome.charged,
        "available_millicredits": outcome.available,
        "held_millicredits": outcome.held,
    }


def _invalid(error: InvalidRequest) -> Refusal:
    """A field of the caller's, or a stored record that a script could not read: not their fault."""
    if error.field in ("account", "record"):
        return UNAVAILABLE
    limit = _LIMITS_OF_SCRIPTS.get(error.field, error.limit)
    return invalid(error.field, limit)


UNAVAILABLE: Final = refusal_of(StoreUnavailable())
