"""Shows the billing history: what was paid, and how the subscription went."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel

from taximeter.api.running.dependencies import MemberDep
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import SUBSCRIPTIONS
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["history"])

EventType = Annotated[
    str | None,
    Query(
        pattern=r"^[a-z_]{1,64}$",
        description="subscription_created, subscription_upgraded, subscription_canceled, "
        "credits_purchased, invoice_paid or invoice_failed",
        examples=["credits_purchased"],
    ),
]


class HistoryLine(BaseModel):
    """One event. `amount` is money, `credits` what a purchase brought."""

    id: str
    event_type: str
    amount: float | None
    currency: str
    credits: float | None
    lago_invoice_id: str | None
    stripe_payment_id: str | None
    status: str
    metadata: dict[str, Any]
    created_at: datetime


class History(BaseModel):
    """A page of the history, newest first."""

    history: list[HistoryLine]
    total: int
    limit: int
    offset: int


@router.get("/{org_id}/history", summary="Billing history")
@router.get("/billing/{org_id}/history", summary="Billing history, at its other address")
async def get_history(
    access: MemberDep,
    reports: ReportsDep,
    event_type: EventType = None,
    limit: LimitParam = 20,
    offset: OffsetParam = 0,
) -> History:
    """Subscriptions, purchases and invoices of an organisation. A type that nothing has happened of
    is an empty page.
    """

    async def page(conn: Connection) -> tuple[list[Record], int]:
        which = (access.org_id, event_type)
        rows = await conn.fetch(SUBSCRIPTIONS["list_history"], *which, limit, offset)
        return rows, await conn.fetchval(SUBSCRIPTIONS["count_history"], *which)

    rows, total = await reports.read(page)
    return History(history=[_line(row) for row in rows], total=total, limit=limit, offset=offset)


def _line(row: Record) -> HistoryLine:
    metadata = json.loads(row["metadata"])
    if not isinstance(metadata, dict):  # An operator may have written any JSON by hand.
        metadata = {"value": metadata}
    bought = metadata.pop("millicredits", None)
    return HistoryLine(
        id=str(row["id"]),
        event_type=row["event_type"],
        amount=float(row["amount"]) if row["amount"] is not None else None,
        currency=row["currency"],
        credits=credits_of(bought) if isinstance(bought, int) else None,
        lago_invoice_id=row["lago_invoice_id"],
        stripe_payment_id=row["stripe_payment_id"],
        status=row["status"],
        metadata=metadata,
        created_at=row["created_at"],
    )
