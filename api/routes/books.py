"""Shows system admins whether the books are right, and what waits for somebody: events that were
set aside or lost.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Final, Literal

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel, Field

from taximeter.api.billing.audit import write_audit
from taximeter.api.running.dependencies import CallerFirstRoute, ServicesDep, SystemAdminDep
from taximeter.api.sql import BOOKS
from taximeter.api.web.errors import ApiError, admin_refusal
from taximeter.api.web.json_numbers import Body, ShortText
from taximeter.api.web.paging import NEXT, CursorParam, LimitParam, cursor_of, read_cursor
from taximeter.api.web.retries import again_when_undone
from taximeter.meter import Usage
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.settler.books.stores import Connection
from taximeter.settler.status.health import ShardHealth

router = APIRouter(
    prefix="/api/v1/org-billing/system", tags=["books"], route_class=CallerFirstRoute
)

LOST_MAX: Final = 100
COUNTED_MAX: Final = 10_000
_PAYLOAD: Final = 6
"""Its place in the line of an event."""

LetterState = Literal["open", "acknowledged", "charged"]
Shard = Annotated[int, Path(ge=0, lt=2**31, description="As the list of lost events has it")]
Number = Annotated[int, Path(ge=0, lt=2**63, description="As the list of lost events has it")]
LetterId = Annotated[int, Path(ge=1, lt=2**63, description="The event, by its `id` in the list")]


class Proof(BaseModel):
    """What the last look has found of one invariant. `holds` is null when nothing that was read is
    wrong, and something could not be read. Figures are counts, and millicredits.
    """

    name: str
    title: str
    holds: bool | None
    figures: dict[str, int]
    violations: list[str]
    when_this_fires: list[str]
    could_not_be_read: list[str]
    could_not_be_judged: str | None
    checked_at: datetime
    proved_at: datetime | None


class Look(BaseModel):
    """The settler's last look at the books: it looks again and again. `could_not_look` says why the
    last try saw nothing. `seal_head` is the link of the newest of `seals` seals, which hold `days`
    days and `rows_sealed` rows until `sealed_until`; all of these were read again between
    `round_began_at` and `round_ended_at`.
    """

    tried_at: datetime | None
    could_not_look: str | None
    checked_at: datetime | None
    seconds: float | None
    proved_at: datetime | None
    rows_new: int
    rows_sealed: int
    sealed_until: datetime | None
    seals: int
    seal_head: str | None
    round_began_at: datetime | None
    round_ended_at: datetime | None
    days: int


class Drift(BaseModel):
    """What the comparison of every minute says of the live balances, and since when."""

    is_wrong: bool
    since: datetime


class BooksShard(ShardHealth):
    """One shard, and how far it is settled."""

    settled_seq: int
    settled_events: int
    unapplied_entries: int
    set_aside_events: int
    lost_events: int
    settled_at: datetime | None


class LetterCounts(BaseModel):
    """Events that were set aside, by what became of them."""

    open: int
    acknowledged: int
    charged: int


class LostEvents(BaseModel):
    """A hole in the stream of a shard: events that Redis lost before they were booked."""

    shard: int
    epoch: int
    seq_first: int
    seq_last: int
    events: int
    found_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None = Field(description="A user, or a role of the database")
    note: str | None


class Books(BaseModel):
    """Whether the books are right, and what waits for somebody. `verdict` is that of the last look:
    `unproved` before the first one, and while something could not be read.
    """

    verdict: Literal["right", "wrong", "unproved"]
    proofs: list[Proof]
    look: Look
    drift: Drift | None
    settlement_lag_s: float
    shards: list[BooksShard]
    dead_letters: LetterCounts
    lost_events: list[LostEvents] = Field(description=f"The newest {LOST_MAX}")


class DeadLetter(BaseModel):
    """An event that could not be booked, and why. Whom it would have charged had the credits given
    back at once. `raw` is its line, as far as it is text.
    """

    id: int
    at: datetime
    shard: int
    epoch: int
    seq: int | None
    reason: str
    detail: str | None
    org_id: str | None
    user_id: str | None
    request_id: str | None
    credits: float | None
    raw: str
    state: LetterState
    note: str | None
    answered_by: str | None
    answered_at: datetime | None


class DeadLetterList(BaseModel):
    """A page of events that were set aside, the newest first."""

    dead_letters: list[DeadLetter]
    limit: int
    next: str | None = Field(description=NEXT)


def _says_something(note: str) -> str:
    if not note.strip():
        raise ValueError("must say what was found")
    return note.strip()


class Note(Body):
    """What was found, and why it is done."""

    note: Annotated[ShortText, AfterValidator(_says_something)]


@router.get("/books", summary="Whether the books are right")
async def get_books(admin: SystemAdminDep, services: ServicesDep) -> Books:
    """Each invariant with its figures and when it was proved, how far the books are sealed and each
    shard is settled, events that were set aside or lost. It reads what the settler has proved.
    """
    health = await services.health.get()
    async with services.pool.acquire() as conn:
        look = await conn.fetchrow(BOOKS["check_state"])
        proofs = [_proof(row) for row in await conn.fetch(BOOKS["proofs"])]
        drift = await conn.fetchrow(BOOKS["drift"])
        lost = await conn.fetch(BOOKS["lost_events"], LOST_MAX)
        counts = await conn.fetchrow(BOOKS["count_dead_letters"], COUNTED_MAX)
    assert counts is not None, "an aggregate has one row"
    assert look is not None, "there is one row"
    seen = {one.shard: one for one in services.health.shards_seen}
    holds = look["holds"]
    if any(one.holds is False for one in proofs) or (drift is not None and drift["is_wrong"]):
        holds = False
    return Books(
        verdict="unproved" if holds is None else "right" if holds else "wrong",
        proofs=proofs,
        look=Look(**dict(look), seals=look["seal_n"]),
        drift=None if drift is None else Drift(**dict(drift)),
        settlement_lag_s=health.settler.settlement_lag_s,
        shards=[
            BooksShard(
                **one.model_dump(),
                settled_seq=of.settled_seq,
                settled_events=of.settled_events,
                unapplied_entries=of.unapplied_entries,
                set_aside_events=of.dead_events,
                lost_events=of.lost_events,
                settled_at=of.settled_at,
            )
            for one in health.shards
            if (of := seen.get(one.shard)) is not None
        ],
        dead_letters=LetterCounts(
            open=counts["letters"] - counts["acknowledged"] - counts["charged"],
            acknowledged=counts["acknowledged"],
            charged=counts["charged"],
        ),
        lost_events=[_lost(row) for row in lost],
    )


def _proof(row: Record) -> Proof:
    return Proof(
        name=row["name"],
        title=row["title"],
        holds=row["holds"],
        figures=json.loads(row["figures"]),
        violations=json.loads(row["violations"]),
        when_this_fires=json.loads(row["reasons"]),
        could_not_be_read=json.loads(row["unread"]),
        could_not_be_judged=row["unjudged"],
        checked_at=row["checked_at"],
        proved_at=row["proved_at"],
    )


def _lost(row: Record) -> LostEvents:
    return LostEvents(**dict(row), events=row["seq_last"] - row["seq_first"] + 1)


@router.post(
    "/lost-events/{shard}/{epoch}/{seq_first}/acknowledge",
    summary="Note that a loss of events is known",
)
@again_when_undone
async def acknowledge_lost_events(
    shard: Shard,
    epoch: Number,
    seq_first: Number,
    body: Note,
    admin: SystemAdminDep,
    services: ServicesDep,
) -> LostEvents:
    """From now on the loss is shown and is no alarm; nothing is charged. 409 for one that was
    acknowledged before. Losses of charges in Postgres itself are a matter of `taximeter check`.
    """
    hole = (shard, epoch, seq_first)
    async with services.pool.acquire() as conn, conn.transaction():
        if await conn.fetchrow(BOOKS["lost_event"], *hole) is None:
            raise ApiError(404, "There is no such loss")
        done = await conn.fetchval(BOOKS["acknowledge_lost"], *hole, body.note, admin.user_id)
        row = await conn.fetchrow(BOOKS["lost_event"], *hole)
        assert row is not None, "it is never deleted"
        lost = _lost(row)
        if not done:
            raise ApiError(409, f"It was acknowledged before, by {lost.acknowledged_by}")
        await write_audit(
            conn,
            actor=admin.user_id,
            action="system.lost_events.acknowledged",
            org_id=None,
            target=f"shard {shard}, events {epoch}-{seq_first} to {lost.seq_last}",
            after={"events": lost.events, "note": body.note},
        )
        return lost


@router.get("/dead-letters", summary="Events that could not be booked")
async def list_dead_letters(
    admin: SystemAdminDep,
    services: ServicesDep,
    state: Annotated[LetterState | None, Query(description="Only those in this state")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> DeadLetterList:
    """The newest first, with the reason, the line, and what was done about each."""
    last = _number(cursor)
    async with services.pool.acquire() as conn:
        rows = await conn.fetch(BOOKS["dead_letters"], state, last, limit + 1)
    shown = [_letter(row) for row in rows[:limit]]
    following = cursor_of(shown[-1].id) if len(rows) > limit else None
    return DeadLetterList(dead_letters=shown, limit=limit, next=following)


def _number(cursor: str | None) -> int | None:
    (text,) = read_cursor(cursor, str)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(400, "cursor must be the `next` of a page", details={"field": "cursor"})
    return int(text)


@router.post("/dead-letters/{letter_id}/acknowledge", summary="Note that such an event is known")
@again_when_undone
async def acknowledge_dead_letter(
    letter_id: LetterId, body: Note, admin: SystemAdminDep, services: ServicesDep
) -> DeadLetter:
    """Nothing is charged. 409 for one that was acknowledged or charged before."""
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _answer(conn, letter_id, "acknowledged", body.note, admin.user_id)
        await _audit(conn, "acknowledged", row, admin.user_id, body.note)
        return _letter(row)


@router.post(
    "/dead-letters/{letter_id}/retry",
    summary="Charge such an event after all",
)
@again_when_undone
async def retry_dead_letter(
    letter_id: LetterId, body: Note, admin: SystemAdminDep, services: ServicesDep
) -> DeadLetter:
    """Charges its user what it says, once: the live balance follows. 400 where the user cannot pay,
    or its organisation, user, request id or amount could not be read, 409 for one that was answered
    before, or whose request id was charged another amount.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _answer(conn, letter_id, "charged", body.note, admin.user_id)
        org_id, user_id, amount = row["org_id"], row["user_id"], row["amount"]
        if None in (org_id, user_id, row["request_id"], amount):
            raise ApiError(400, "It does not say whom to charge, for which request, or how much")
        try:
            done = await conn.fetchrow(
                BOOKS["charge_dead_letter"], org_id, user_id, amount, *_purpose(row)
            )
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise ApiError(400, f"The ledger refuses what it says: {error}") from error
        assert done is not None, "the function has one row"
        if not done["success"]:
            have = max(0, done["remaining_credits"])
            if have >= amount:
                raise ApiError(409, "This request id was charged another amount, or another user")
            raise admin_refusal(
                "insufficient_credits",
                words=f"{user_id} has {text_of_credits(have)} credits, and it says"
                f" {text_of_credits(amount)}: allocate some first",
                details={"need": credits_of(amount), "have": credits_of(have)},
            )
        await _audit(conn, "charged", row, admin.user_id, body.note)
        letter = _letter(row)
    await services.live.apply_now(org_id, user_id)
    return letter


def _purpose(row: Record) -> tuple[str, str, str, str]:
    """Service type and name, request id, and metadata as JSON text."""
    parts = (row["raw"] or b"").decode("utf-8", "replace").split("\t", _PAYLOAD)
    usage = Usage.of_payload(parts[_PAYLOAD]) if len(parts) > _PAYLOAD else None
    usage = usage or Usage()
    metadata = {**usage.metadata, "dead_letter": row["id"]}
    return usage.service_type, usage.service_name, row["request_id"], json.dumps(metadata)


async def _answer(conn: Connection, letter_id: int, what: str, note: str, user_id: str) -> Record:
    """The event, answered; whoever comes second is refused. Raises ApiError 404, 409."""
    if await conn.fetchrow(BOOKS["dead_letter"], letter_id) is None:
        raise ApiError(404, "There is no such event")
    done = await conn.fetchval(BOOKS["answer_dead_letter"], letter_id, what, note, user_id)
    row = await conn.fetchrow(BOOKS["dead_letter"], letter_id)
    assert row is not None, "it is never deleted"
    if done is None:
        raise ApiError(409, f"It was {row['state']} before, by {row['answered_by']}")
    return row


async def _audit(conn: Connection, what: str, row: Record, user_id: str, note: str) -> None:
    await write_audit(
        conn,
        actor=user_id,
        action=f"system.dead_letter.{what}",
        org_id=row["org_id"] if what == "charged" else None,
        target=str(row["id"]),
        after={
            "reason": row["reason"],
            "user_id": row["user_id"],
            "request_id": row["request_id"],
            "charged_credits": row["amount"] if what == "charged" else 0,
            "note": note,
        },
    )


def _letter(row: Record) -> DeadLetter:
    same = {name: row[name] for name in DeadLetter.model_fields if name in row}
    same |= {
        "at": row["created_at"],
        "credits": None if row["amount"] is None else credits_of(row["amount"]),
        "raw": (row["raw"] or b"").decode("utf-8", "backslashreplace"),
    }
    return DeadLetter(**same)
