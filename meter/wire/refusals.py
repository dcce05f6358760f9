"""Lists every refusal of the meter, and what each surface answers for it: the one table that the
admin API, the LLM route, the sidecar and forward auth read. docs/errors.md is made of it.

A surface adds the figures (`details`) in its own unit; status, code, words and whether to come
again stand here. Words are templates, filled in by the surface; none has a text of the store in it,
which may name addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from taximeter.meter.wire.errors import (
    AccountNotFound,
    AdmissionPaused,
    CellUnknown,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    OrganizationMoves,
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
    WrongCell,
)

Cause = Literal[
    "account_not_found",
    "backlog",
    "cell_unknown",
    "conflict",
    "fenced",
    "holds_in_the_way",
    "insufficient_credits",
    "invalid_request",
    "maintenance",
    "moving",
    "not_allowed",
    "not_confirmed",
    "outcome_unknown",
    "out_of_memory",
    "overloaded",
    "replayed",
    "too_many_holds",
    "too_many_waiting",
    "unavailable",
    "unexpected",
    "unknown_hold",
    "wrong_cell",
]

RETRY_AFTER_S: Final = 1
"""What `Retry-After` says wherever the same request may succeed a little later."""


class Said(NamedTuple):
    """What one surface answers. `reason` is `details.reason`, where the code names a family."""

    status: int
    code: str
    words: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRow:
    """A refusal on each surface. `retry` says that the same request may succeed a little later;
    `why` is the reason for what differs between surfaces, and empty where only the words do.
    `admin` is None for what the admin API never meets, since it takes and charges nothing.
    """

    errors: str
    when: str
    retry: bool
    admin: Said | None
    llm: Said
    sidecar: Said
    gate: Said
    why: str = ""


FAMILY: Final = (
    "The API has one code for each status, which front ends know from its guide, and says more in"
    " `details.reason`; programs of the sidecar branch by the code alone."
)


def _row(
    errors: str,
    when: str,
    *,
    api: Said,
    sidecar: Said,
    retry: bool = False,
    admin: Said | None = None,
    gate: Said | None = None,
    why: str = "",
) -> RefusalRow:
    return RefusalRow(
        errors=errors,
        when=when,
        retry=retry,
        admin=admin,
        llm=api,
        sidecar=sidecar,
        gate=gate or sidecar,
        why=why,
    )


def _unavailable(
    errors: str, when: str, reason: str, code: str, words: str, admin: Said | None = None
) -> RefusalRow:
    """503: nobody's fault who asks."""
    said = Said(
        503, "SERVICE_UNAVAILABLE", f"The meter cannot take this request now: {reason}", reason
    )
    return _row(
        errors,
        when,
        api=said,
        admin=admin,
        sidecar=Said(503, code, words),
        retry=True,
        why=FAMILY,
    )


_OF_USER: Final = "Insufficient organization credits. "
_ELSEWHERE: Final = Said(421, "WRONG_CELL", "This organization lives in cell {cell}: {address}")
_NO_ACCOUNT: Final = "No credits were ever allocated to this user."

REFUSALS: Final[dict[Cause, RefusalRow]] = {
    "insufficient_credits": _row(
        "InsufficientCredits",
        "the balance is too low",
        api=Said(402, "INSUFFICIENT_CREDITS", _OF_USER + "Need {need}, have {have}"),
        admin=Said(
            400,
            "INSUFFICIENT_CREDITS",
            "Insufficient credits in the organization's pool. Need {need}, have {have}",
        ),
        sidecar=Said(402, "INSUFFICIENT_CREDITS", "The user's balance is too low."),
        why="An admin who moves credits that are not there has made a mistake, and the guide"
        " answers that with 400; 402 asks whoever is charged to pay.",
    ),
    "holds_in_the_way": _row(
        "InsufficientCredits, while open holds keep enough",
        "it would fit if open requests ended",
        retry=True,
        api=Said(
            429,
            "RATE_LIMITED",
            "Credits are held by requests in progress. Need {need}, have {have}, held {held}",
            "credits_held",
        ),
        admin=Said(
            400,
            "INSUFFICIENT_CREDITS",
            "Insufficient credits to deallocate. Need {need}, have {have}, held by running"
            " requests {held}",
        ),
        sidecar=Said(
            429,
            "HOLDS_IN_THE_WAY",
            "Open requests hold the credits that this one needs; try again when they end.",
        ),
        why=FAMILY + " An admin decides about credits that are free, so what is held is as good"
        " as away (400, `details.held`).",
    ),
    "account_not_found": _row(
        "AccountNotFound",
        "nothing was ever allocated to this user",
        api=Said(402, "INSUFFICIENT_CREDITS", _OF_USER + "No credits are allocated to this user"),
        admin=Said(404, "NOT_FOUND", "The user is not an active member of this organization"),
        sidecar=Said(404, "ACCOUNT_NOT_FOUND", _NO_ACCOUNT),
        gate=Said(402, "ACCOUNT_NOT_FOUND", _NO_ACCOUNT),
        why="Callers of the LLM route see an empty balance like any other. The sidecar serves"
        " programs, which may have the ids wrong, so it tells the two apart; a gateway would take"
        " a 404 of forward auth for the upstream's own.",
    ),
    "replayed": _row(
        "RequestReplayed",
        "the same was let through before: nothing may be sent upstream again",
        api=Said(
            409,
            "ALREADY_EXISTS",
            "This Idempotency-Key was used before; that request is {state}",
        ),
        sidecar=Said(409, "REPLAYED", "This request_id was let through before and is {state}."),
        why="A program of the sidecar repeats what had no answer, so it has to tell its own"
        " repetition from an id that stands for something else. Callers of the API send another"
        " key either way. The admin API answers a repetition as the first request.",
    ),
    "conflict": _row(
        "RequestConflict",
        "the id was used with other parameters, or its hold ended another way",
        api=Said(
            409,
            "ALREADY_EXISTS",
            "This Idempotency-Key was used before; that request is {state}",
        ),
        admin=Said(409, "ALREADY_EXISTS", "This {name} was used with another body"),
        sidecar=Said(409, "CONFLICT", "This request_id is {state} already, with other parameters."),
        why="As for RequestReplayed.",
    ),
    "unknown_hold": _row(
        "UnknownHold",
        "the id is neither open nor remembered",
        api=Said(404, "NOT_FOUND", "This request is neither open nor remembered"),
        sidecar=Said(404, "UNKNOWN_HOLD", "This request_id is neither open nor remembered."),
        why=FAMILY,
    ),
    "not_allowed": _row(
        "NotAllowed",
        "whoever asks has no right to it",
        api=Said(403, "PERMISSION_DENIED", "{why}"),
        sidecar=Said(403, "PERMISSION_DENIED", "{why}"),
    ),
    "invalid_request": _row(
        "InvalidRequest",
        "a value is outside its limit",
        api=Said(400, "INVALID_REQUEST", "{field} must be {limit}"),
        admin=Said(422, "VALIDATION_ERROR", "{field}: {limit}"),
        sidecar=Said(400, "INVALID_REQUEST", "{field} must be {limit}"),
        why="The admin API names every field that is wrong at once (`details.fields`), as its"
        " framework does, with 422; OpenAI's clients and gateways know 400.",
    ),
    "too_many_waiting": _row(
        "TooManyForAccount",
        "too many operations of this account or organisation wait already; nothing was done",
        retry=True,
        api=Said(
            429,
            "RATE_LIMITED",
            "Too many requests of this {limit} wait already",
            "too_many_waiting",
        ),
        sidecar=Said(
            429,
            "TOO_MANY_WAITING",
            "Too many operations of this {limit} wait in this sidecar already. Nothing was done.",
        ),
        why=FAMILY,
    ),
    "too_many_holds": _row(
        "TooManyHolds",
        "as many requests of the user are open as one may have; nothing was done",
        retry=True,
        api=Said(
            429,
            "RATE_LIMITED",
            "You have {limit} requests open, as many as one user may have",
            "too_many_holds",
        ),
        sidecar=Said(
            429,
            "TOO_MANY_HOLDS",
            "The user has {limit} requests open, as many as one may have. Nothing was done; try"
            " again when one has ended.",
        ),
        why=FAMILY,
    ),
    "wrong_cell": _row(
        "WrongCell",
        "the organisation lives in another cell: `details.address` says where; nothing was done",
        api=_ELSEWHERE,
        admin=_ELSEWHERE,
        sidecar=_ELSEWHERE,
    ),
    "moving": _unavailable(
        "OrganizationMoves",
        "the organisation is being moved to another cell, which takes seconds; nothing was done",
        "organization_moves",
        "ORGANIZATION_MOVES",
        "This organization is being moved to another cell. Nothing was done: ask again.",
        admin=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "This organization is being moved to another cell; nothing was changed",
            "organization_moves",
        ),
    ),
    "cell_unknown": _unavailable(
        "CellUnknown",
        "the organisation is not known here, and the directory of cells does not answer",
        "directory_away",
        "DIRECTORY_AWAY",
        "In which cell this organization lives cannot be asked now. Nothing was done.",
        admin=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "In which cell this organization lives cannot be asked now",
            "directory_away",
        ),
    ),
    "fenced": _unavailable(
        "ShardFenced, ShardsChanged",
        "the shard waits for the settler's check; nothing was done",
        "fenced",
        "FENCED",
        "The store of live balances is closed until the settler has checked it. Nothing was done.",
    ),
    "backlog": _unavailable(
        "AdmissionPaused (backlog)",
        "as many charges wait to be settled as may wait; holds can be ended",
        "backlog",
        "BACKLOG",
        "As many charges wait to be settled as may wait: no credits can be taken, holds can still"
        " be ended.",
    ),
    "maintenance": _unavailable(
        "AdmissionPaused (drain)",
        "an operator drains the shard; holds can be ended",
        "maintenance",
        "MAINTENANCE",
        "The store of live balances is being drained for maintenance: no credits can be taken,"
        " holds can still be ended.",
    ),
    "out_of_memory": _unavailable(
        "StoreOutOfMemory",
        "Redis is full; holds can be ended",
        "store_out_of_memory",
        "OUT_OF_MEMORY",
        "The store of live balances is full: no credits can be taken, holds can still be ended.",
    ),
    "overloaded": _unavailable(
        "Overloaded",
        "the queue of the process is full; nothing was done",
        "overloaded",
        "OVERLOADED",
        "Too many operations wait in this sidecar already. Nothing was done.",
    ),
    "not_confirmed": _row(
        "NotConfirmed",
        "it was done, but disks or replicas did not confirm it in time",
        retry=True,
        api=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "It was done, but not confirmed in time: {missing}",
            "not_confirmed",
        ),
        sidecar=Said(
            503,
            "OUTCOME_UNKNOWN",
            "It was done, but not confirmed in time: {missing}. It can still be lost with its"
            " server. Repeat it with the same request_id: nothing is done twice.",
        ),
        why=FAMILY + " To a program it is one more outcome to ask for again; `details.missing`"
        " says that it was done.",
    ),
    "outcome_unknown": _unavailable(
        "OutcomeUnknown",
        "no reply came in time: it took effect once or not at all; repeat the same id to learn"
        " which",
        "outcome_unknown",
        "OUTCOME_UNKNOWN",
        "No reply came in time: it took effect once or not at all. Repeat it with the same"
        " request_id to learn which. What a reserve may have held is given back by itself.",
    ),
    "unavailable": _unavailable(
        "StoreUnavailable",
        "Redis could not be reached in time; nothing was done",
        "store_unavailable",
        "UNAVAILABLE",
        "The store of live balances could not be reached, or could not answer.",
        admin=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "The live balance cannot be asked now; nothing has moved",
            "live_balance_unavailable",
        ),
    ),
    "unexpected": _unavailable(
        "StoreError and what has no row, such as UnsafeServer",
        "Redis could not do what was asked",
        "meter",
        "UNAVAILABLE",
        "The store of live balances could not be reached, or could not answer.",
    ),
}


def cause_of(error: MeterError) -> Cause:
    """The row of the table for what the meter has raised; `unexpected` for what has none."""
    match error:
        case InsufficientCredits():
            return "holds_in_the_way" if error.only_holds_in_the_way else "insufficient_credits"
        case AdmissionPaused():
            return "backlog" if error.reason == "backlog" else "maintenance"
    for kind, cause in _CAUSES:
        if isinstance(error, kind):
            return cause
    return "unexpected"


_CAUSES: Final[tuple[tuple[type[MeterError], Cause], ...]] = (
    # A kind stands before those that it is a kind of.
    (AccountNotFound, "account_not_found"),
    (WrongCell, "wrong_cell"),
    (CellUnknown, "cell_unknown"),
    (OrganizationMoves, "moving"),
    (InvalidRequest, "invalid_request"),
    (NotAllowed, "not_allowed"),
    (RequestReplayed, "replayed"),
    (RequestConflict, "conflict"),
    (UnknownHold, "unknown_hold"),
    (TooManyForAccount, "too_many_waiting"),
    (TooManyHolds, "too_many_holds"),
    (Overloaded, "overloaded"),
    (ShardFenced, "fenced"),
    (StoreOutOfMemory, "out_of_memory"),
    (NotConfirmed, "not_confirmed"),
    (OutcomeUnknown, "outcome_unknown"),
    (StoreUnavailable, "unavailable"),
)
