"""The one shape in which every refusal leaves the API, and the mapping of what can go wrong to it.

`{"error": {"code", "message", "details"}, "detail": "..."}`: the second part repeats the message,
since existing front ends read `detail`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from taximeter.meter import (
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
    StoreUnavailable,
    TooManyForAccount,
    TooManyHolds,
    UnknownHold,
)

logger = logging.getLogger("taximeter.api")

INVALID_REQUEST = "INVALID_REQUEST"
UNAUTHORIZED = "UNAUTHORIZED"
PERMISSION_DENIED = "PERMISSION_DENIED"
NOT_FOUND = "NOT_FOUND"
ALREADY_EXISTS = "ALREADY_EXISTS"
INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
VALIDATION_ERROR = "VALIDATION_ERROR"
RATE_LIMITED = "RATE_LIMITED"
UNAVAILABLE = "SERVICE_UNAVAILABLE"
INTERNAL_ERROR = "INTERNAL_ERROR"
UPSTREAM_ERROR = "UPSTREAM_ERROR"

# Front ends know the sentence of a 402 by heart, and it speaks of the organisation's credits. What
# is out is what was allocated to one user: the pool may be full.
_USERS_ALLOCATION = "the user's allocation in the organization"

_CODE_OF_STATUS = {
    400: INVALID_REQUEST,
    401: UNAUTHORIZED,
    403: PERMISSION_DENIED,
    404: NOT_FOUND,
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: ALREADY_EXISTS,
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: VALIDATION_ERROR,
    429: RATE_LIMITED,
    503: UNAVAILABLE,
}


class ApiError(Exception):
    """A refusal with everything that its answer needs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or _CODE_OF_STATUS.get(status, INTERNAL_ERROR)
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})


def error_content(code: str, message: str, details: Mapping[str, object]) -> dict[str, object]:
    """The body of an error answer."""
    return {
        "error": {"code": code, "message": message, "details": dict(details)},
        "detail": message,
    }


def text_of_credits(millicredits: int) -> str:
    """Credits as text with exactly three decimals: 50 millicredits are `0.050`."""
    sign = "-" if millicredits < 0 else ""
    whole, rest = divmod(abs(millicredits), 1000)
    return f"{sign}{whole}.{rest:03d}"


def from_meter(error: MeterError) -> ApiError:
    """Say in HTTP what the meter refused, and what the caller can do about it."""
    match error:
        case InsufficientCredits():
            return _insufficient(error)
        case AccountNotFound():
            return ApiError(
                402,
                "Insufficient organization credits. No credits are allocated to this user",
                code=INSUFFICIENT_CREDITS,
                details={"have": 0.0, "limit_of": _USERS_ALLOCATION},
                headers={"X-Should-Retry": "false"},
            )
        case NotAllowed():
            return ApiError(403, str(error), details={"right": error.right})
        case RequestReplayed() | RequestConflict():
            return ApiError(
                409, str(error), code=ALREADY_EXISTS, headers={"X-Should-Retry": "false"}
            )
        case InvalidRequest():
            return ApiError(400, str(error), details={"field": error.field})
        case UnknownHold():
            return ApiError(404, str(error))
        case ShardFenced():
            reason = "fenced"
        case AdmissionPaused():
            reason = {"drain": "maintenance"}.get(error.reason, error.reason)
        case StoreOutOfMemory():
            reason = "store_out_of_memory"
        case TooManyForAccount():
            return ApiError(
                429,
                f"Too many requests of this {error.limit} wait already",
                details={"reason": "too_many_waiting", "limit": error.limit},
                headers={"Retry-After": "1"},
            )
        case TooManyHolds():
            return ApiError(
                429,
                f"You have {error.limit} requests open, as many as one user may have",
                details={"reason": "too_many_holds", "open_holds_max": error.limit},
                headers={"Retry-After": "1"},
            )
        case Overloaded():
            reason = "overloaded"
        case NotConfirmed():
            return ApiError(
                503,
                f"It was done, but not confirmed in time: {error.missing}",
                details={"reason": "not_confirmed", "missing": error.missing},
                headers={"Retry-After": "1"},
            )
        case OutcomeUnknown():
            reason = "outcome_unknown"
        case StoreUnavailable():
            reason = "store_unavailable"
        case _:
            logger.error("unmapped refusal of the meter: %r", error)
            reason = "meter"
    return ApiError(
        503,
        f"The meter cannot take this request now: {reason}",
        details={"reason": reason},
        headers={"Retry-After": "1"},
    )


def _insufficient(error: InsufficientCredits) -> ApiError:
    need, have, held = error.need, error.have, error.held
    amounts = {"need": need / 1000, "have": have / 1000, "held": held / 1000}
    if error.only_holds_in_the_way:
        # The credits are there, but promised to requests that are still running: waiting helps,
        # paying does not.
        return ApiError(
            429,
            f"Credits are held by requests in progress. Need {text_of_credits(need)}, "
            f"have {text_of_credits(have)}, held {text_of_credits(held)}",
            details={"reason": "credits_held", **amounts},
            headers={"Retry-After": "1"},
        )
    # OpenAI's clients do not retry 402, where they would hammer on 429.
    return ApiError(
        402,
        "Insufficient organization credits. "
        f"Need {text_of_credits(need)}, have {text_of_credits(have)}",
        code=INSUFFICIENT_CREDITS,
        details={**amounts, "limit_of": _USERS_ALLOCATION},
        headers={"X-Should-Retry": "false"},
    )


def _field_errors(errors: Sequence[Mapping[str, object]]) -> list[dict[str, str]]:
    """Name the field and the limit, and never repeat the input: it may hold what must not be
    logged.
    """
    listed = []
    for one in errors:
        location = one.get("loc")
        parts = location if isinstance(location, tuple) else ()
        name = ".".join(str(part) for part in parts if part not in ("body", "query", "path"))
        message = str(one.get("msg", "is not valid")).removeprefix("Value error, ")
        if one.get("type") == "extra_forbidden":
            message = "unknown field"
        context = one.get("ctx")
        if one.get("type") == "json_invalid" and isinstance(context, Mapping):
            # The place in the text is no name of a field.
            name, message = "body", f"not valid JSON: {context.get('error')}"
        listed.append({"field": name or "body", "message": message})
    return listed


def validation_refusal(errors: Sequence[Mapping[str, object]]) -> ApiError:
    """What pydantic found wrong with an input, each field by its name."""
    fields = _field_errors(errors)
    message = "; ".join(f"{one['field']}: {one['message']}" for one in fields)
    return ApiError(422, message, details={"fields": fields})
