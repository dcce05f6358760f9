"""Says every refusal in the one shape in which it leaves the API.

`{"error": {"code", "message", "details"}, "detail": "..."}`: the second part repeats the message,
since existing front ends read `detail`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, Self

from taximeter.meter import (
    AccountNotFound,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    RequestConflict,
    RequestReplayed,
    TooManyForAccount,
    TooManyHolds,
    WrongCell,
)
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.meter.wire.http_refusals import HTTP_REFUSALS, HttpCause
from taximeter.meter.wire.refusals import REFUSALS, RETRY_AFTER_S, Cause, cause_of

logger = logging.getLogger("taximeter.api")

# Front ends know the sentence of a 402 by heart, and it speaks of the organisation's credits. What
# is out is what was allocated to one user: the pool may be full.
_USERS_ALLOCATION = "the user's allocation in the organization"

_PLAIN: Final[tuple[HttpCause, ...]] = (
    *("unauthorized", "permission_denied", "not_there", "makes_no_sense", "in_the_way"),
    *("method_not_allowed", "body_too_slow", "body_too_large", "not_json", "invalid_field"),
    *("rate_limited", "database_away", "internal"),
)
"""Whose code a status has where none is named."""
_CODE_OF_STATUS: Final = {
    said.status: said.code for cause in _PLAIN if (said := HTTP_REFUSALS[cause].admin) is not None
}
_CAUSE_OF_STATUS: Final[dict[int, HttpCause]] = {
    said.status: cause for cause in _PLAIN if (said := HTTP_REFUSALS[cause].admin) is not None
}


def cause_of_status(status: int) -> HttpCause:
    """Why something is refused of which only the status is known."""
    return _CAUSE_OF_STATUS.get(status, "internal" if status >= 500 else "makes_no_sense")


class ApiError(Exception):
    """A refusal with everything that its answer needs. `cause` names its row in the tables of
    refusals; where none is named, that of its status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        cause: Cause | HttpCause | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or _CODE_OF_STATUS.get(status, "INTERNAL_ERROR")
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        self.cause: Cause | HttpCause = cause or cause_of_status(status)

    @classmethod
    def of(
        cls,
        cause: HttpCause,
        *,
        words: str = "",
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **figures: object,
    ) -> Self:
        """What the table says of a request that never comes to the meter; `words` where a better
        sentence is known than the table's, `headers` besides Retry-After or instead of it.
        """
        row = HTTP_REFUSALS[cause]
        said = row.llm or row.admin
        assert said is not None, f"the API never meets {cause}"
        reason = {"reason": said.reason} if said.reason else {}
        again = {"Retry-After": str(RETRY_AFTER_S)} if row.retry else {}
        return cls(
            said.status,
            words or said.words.format(**figures),
            code=said.code,
            details={**reason, **(details or {})},
            headers={**again, **(headers or {})},
            cause=cause,
        )


def error_content(code: str, message: str, details: Mapping[str, object]) -> dict[str, object]:
    """The body of an error answer."""
    return {
        "error": {"code": code, "message": message, "details": dict(details)},
        "detail": message,
    }


def from_meter(error: MeterError) -> ApiError:
    """Say in HTTP what the meter refused, and what the caller can do about it."""
    cause = cause_of(error)
    if cause == "unexpected":
        logger.error("unmapped refusal of the meter: %r", error)
    row = REFUSALS[cause]
    details = {"reason": row.llm.reason} if row.llm.reason else {}
    headers = {}
    if row.retry:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif row.llm.status in _NO_USE_TO_RETRY:
        headers["X-Should-Retry"] = "false"
    words, more = _filled(error, row.llm.words)
    return ApiError(
        row.llm.status,
        words,
        code=row.llm.code,
        details=details | more,
        headers=headers,
        cause=cause,
    )


def admin_refusal(
    cause: Cause, *, words: str = "", details: Mapping[str, object] | None = None, **figures: object
) -> ApiError:
    """What the admin API answers for a row of the table, with other words where the row's do not
    fit.
    """
    row = REFUSALS[cause]
    assert row.admin is not None, f"the admin API never meets {cause}"
    reason = {"reason": row.admin.reason} if row.admin.reason else {}
    return ApiError(
        row.admin.status,
        words or row.admin.words.format(**figures),
        code=row.admin.code,
        details={**(details or {}), **reason},
        headers={"Retry-After": str(RETRY_AFTER_S)} if row.admin.status == 503 else {},
        cause=cause,
    )


# OpenAI's clients do not retry 402, where they would hammer on 429; they would repeat a 409.
_NO_USE_TO_RETRY = frozenset({402, 409, 421})


def _filled(error: MeterError, words: str) -> tuple[str, dict[str, object]]:
    """The sentence with its figures, and the details of the answer."""
    match error:
        case InsufficientCredits():
            figures = {"need": error.need, "have": error.have, "held": error.held}
            said = {name: text_of_credits(figure) for name, figure in figures.items()}
            details: dict[str, object] = {
                name: credits_of(figure) for name, figure in figures.items()
            }
            if not error.only_holds_in_the_way:
                details["limit_of"] = _USERS_ALLOCATION
            return words.format(**said), details
        case AccountNotFound():
            return words, {"have": 0.0, "limit_of": _USERS_ALLOCATION}
        case WrongCell():
            where: dict[str, object] = {"cell": error.cell, "address": error.api_url}
            return words.format(**where), where
        case NotAllowed():
            return words.format(why=error), {"right": error.right}
        case RequestReplayed() | RequestConflict():
            return words.format(state=error.outcome.state), {}
        case InvalidRequest():
            return words.format(field=error.field, limit=error.limit), {"field": error.field}
        case TooManyForAccount():
            return words.format(limit=error.limit), {"limit": error.limit}
        case TooManyHolds():
            return words.format(limit=error.limit), {"open_holds_max": error.limit}
        case NotConfirmed():
            return words.format(missing=error.missing), {"missing": error.missing}
        case _:
            return words, {}


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
    return admin_refusal("invalid_request", words=message, details={"fields": fields})
