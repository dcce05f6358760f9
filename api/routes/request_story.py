"""Tells one request's story: what was held for it, what it cost and why, and where it is booked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from asyncpg import Record
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from taximeter.api.billing.charges import Charge, Chosen, SettledRequest, view_of
from taximeter.api.billing.open_holds import OpenHold, find_hold
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import Access, CallerFirstRoute, MemberDep, ServicesDep
from taximeter.api.running.reports import AnswerFromReports, ReportsDep
from taximeter.api.running.services import Services
from taximeter.api.sql import REQUESTS
from taximeter.api.web.errors import ApiError
from taximeter.meter import MeterError, Receipt
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.archive.places import ArchiveError
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

RequestIdPath = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._:-]{1,128}$", description="X-Request-Id of the answer")
]
State = Literal["open", "committed", "charged", "released", "expired", "unknown"]


class Batch(BaseModel):
    """The transaction that booked a charge: events `seq_first` to `seq_last` of its shard."""

    seq_first: int
    seq_last: int
    events: int
    settled_at: datetime


class Booking(BaseModel):
    """One charge as the ledger has it. `rest`: what was missing after its hold had expired.
    `shard`, `epoch` and `seq` name its event; null for a charge by SQL. `batch` is null where it is
    not kept any more.
    """

    phase: Literal["charge", "rest"]
    credits: float
    charged_at: datetime
    by_expiry: bool = Field(
        description="The hold ended by its deadline: what was reported till then"
    )
    shard: int | None
    epoch: int | None
    seq: int | None
    batch: Batch | None


class RequestRefund(BaseModel):
    """Credits that were given back for this request."""

    credits: float
    refunded_at: datetime
    refunded_by: str | None
    reason: str | None


class RequestStory(FromBooks):
    """Everything that is known of one request. `state` is what became of its hold, as Redis still
    knows it: `unknown` after some minutes, or while Redis is away (`live` is false then).
    """

    org_id: str
    request_id: str
    user_id: str | None
    state: State
    settlement: Literal["open", "pending", "settled", "none"]
    live: bool
    cost_credits: float | None = Field(description="Null while the request is open")
    hold: OpenHold | None = Field(description="What an open request holds, and what it reported")
    charges: list[SettledRequest]
    bookings: list[Booking]
    refunds: list[RequestRefund]


@router.get("/credits/{org_id}/requests/{request_id}", summary="One request's story")
async def get_request_story(
    request_id: RequestIdPath, access: MemberDep, services: ServicesDep, reports: ReportsDep
) -> RequestStory:
    """Its hold, price and version, tokens, charges, the batch that booked them, and refunds. Admins
    see everybody's, members their own; 404 for what nobody knows (any more).
    """
    org_id = access.org_id
    books = await services.catch_up.of_org(org_id)
    live, hold = await _live(services, org_id, request_id)

    async def read(conn: Connection) -> tuple[list[Record], list[Record]]:
        key = (org_id, request_id)
        return (
            await conn.fetch(REQUESTS["bookings_of_request"], *key),
            await conn.fetch(REQUESTS["refunds_of_request"], *key),
        )

    booked, refunds = await reports.read(read)
    user_id = hold.user_id if hold is not None else booked[0]["user_id"] if booked else None
    receipt = live if isinstance(live, Receipt) else None
    if receipt is None and not booked:
        if isinstance(live, MeterError):
            raise live
        raise ApiError.of("unknown_request")
    if not access.is_admin and not await _is_own(services, access, request_id, user_id):
        raise ApiError.of("unknown_request")
    charges = await _charges(services, reports, org_id, request_id, booked)
    cost = sum(row["amount"] for row in booked)
    state: State = "unknown" if receipt is None or receipt.state == "foreign" else receipt.state
    if receipt is not None and state != "open":
        cost = max(cost, receipt.charged)
    return RequestStory(
        as_of=books.as_of,
        complete=books.complete,
        org_id=org_id,
        request_id=request_id,
        user_id=user_id,
        state=state,
        settlement=_settlement(state, cost, booked),
        live=not isinstance(live, MeterError),
        cost_credits=None if state == "open" else credits_of(cost),
        hold=hold,
        charges=[view_of(row) for row in charges],
        bookings=[_booking(row) for row in booked],
        refunds=[
            RequestRefund(
                credits=credits_of(row["millicredits"]),
                refunded_at=row["created_at"],
                refunded_by=row["refunded_by"],
                reason=row["reason"],
            )
            for row in refunds
        ],
    )


async def _live(
    services: Services, org_id: str, request_id: str
) -> tuple[Receipt | MeterError | None, OpenHold | None]:
    """What Redis knows of it, or why it does not say."""
    try:
        meter = await services.meters.get()
        receipt = await meter.request(org_id, request_id)
    except MeterError as error:
        return error, None
    hold = None
    if receipt is not None and receipt.state == "open":
        with suppress(RedisError, OSError):  # Its receipt is enough to answer.
            hold = await find_hold(services.stores, org_id, request_id)
    return receipt, hold


async def _is_own(services: Services, access: Access, request_id: str, user_id: str | None) -> bool:
    if user_id is not None:
        return user_id == access.user_id
    try:  # It ended without a charge, so that Redis alone knows whose it was.
        meter = await services.meters.get()
        found = await meter.request(access.org_id, request_id, user_id=access.user_id)
    except MeterError:
        return False
    return found is not None and found.state != "foreign"


async def _charges(
    services: Services,
    reports: AnswerFromReports,
    org_id: str,
    request_id: str,
    booked: Sequence[Record],
) -> list[Charge]:
    """The rows of usage of what is booked: each has the moment of its booking."""
    found: dict[int, Charge] = {}
    for moment in sorted({row["created_at"] for row in booked}):
        chosen = Chosen(
            org_id,
            moment,
            moment + timedelta(microseconds=1),
            user_id=booked[0]["user_id"],
            request_id=request_id,
        )
        try:
            rows = await services.charges.page(reports.read, chosen, len(booked))
        except ArchiveError as error:
            raise ApiError.of("archive_away", why=error) from error
        found |= {row["id"]: row for row in rows}
    return [found[key] for key in sorted(found)]


def _settlement(
    state: State, cost: int, booked: Sequence[Record]
) -> Literal["open", "pending", "settled", "none"]:
    if state == "open":
        return "open"
    if booked and sum(row["amount"] for row in booked) == cost:
        return "settled"
    return "none" if cost == 0 and state in ("released", "expired") else "pending"


def _booking(row: Record) -> Booking:
    batch = None
    if row["seq_first"] is not None:
        batch = Batch(
            seq_first=row["seq_first"],
            seq_last=row["seq_last"],
            events=row["events"],
            settled_at=row["settled_at"],
        )
    return Booking(
        phase="rest" if row["phase"] else "charge",
        credits=credits_of(row["amount"]),
        charged_at=row["created_at"].astimezone(UTC),
        by_expiry=row["by_expiry"],
        shard=row["shard"],
        epoch=row["epoch"],
        seq=row["seq"],
        batch=batch,
    )
