"""Notes and shows invoices: what the billing system says of them, and whether a subscription is
past due.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.running.dependencies import (
    Access,
    CallerFirstRoute,
    MemberDep,
    OrgAdminDep,
    ServicesDep,
    SystemAdminDep,
)
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import CORRECTIONS, SUBSCRIPTIONS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Body, Dollars, ShortText
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["history"], route_class=CallerFirstRoute)

Status = Literal["paid", "failed"]


class InvoiceView(BaseModel):
    """The last word on an invoice. `amount` is dollars."""

    invoice_id: str
    status: Status
    amount: float | None
    currency: str
    at: datetime


class InvoiceList(BaseModel):
    """A page of invoices, newest first. `outstanding_balance` is dollars of those that failed."""

    invoices: list[InvoiceView]
    outstanding_balance: float
    total: int
    limit: int
    offset: int


class NewInvoice(Body):
    """What became of an invoice."""

    lago_invoice_id: ShortText
    status: Status
    amount: Dollars = Field(description="Dollars of the invoice")


class InvoiceNoted(BaseModel):
    """The invoice, and what the subscription is now."""

    invoice: InvoiceView
    subscription_status: str
    outstanding_balance: float


@router.get("/billing/{org_id}/invoices", summary="Invoices and what is open of them")
async def list_invoices(
    access: MemberDep,
    reports: ReportsDep,
    status: Annotated[
        Status | None, Query(description="Only those that were paid or failed")
    ] = None,
    limit: LimitParam = 20,
    offset: OffsetParam = 0,
) -> InvoiceList:
    """The last word on each invoice: one that failed and was paid later is paid."""

    async def page(conn: Connection) -> tuple[list[Record], Record | None]:
        which = (access.org_id, status)
        rows = await conn.fetch(CORRECTIONS["list_invoices"], *which, limit, offset)
        return rows, await conn.fetchrow(CORRECTIONS["count_invoices"], *which)

    rows, counted = await reports.read(page)
    assert counted is not None, "an aggregate has one row"
    return InvoiceList(
        invoices=[
            InvoiceView(
                invoice_id=row["invoice_id"],
                status="paid" if row["event_type"] == "invoice_paid" else "failed",
                amount=None if row["amount"] is None else float(row["amount"]),
                currency=row["currency"],
                at=row["created_at"],
            )
            for row in rows
        ],
        outstanding_balance=float(counted["outstanding"]),
        total=counted["total"],
        limit=limit,
        offset=offset,
    )


@router.post("/billing/{org_id}/invoices", summary="Note what became of an invoice")
@again_when_undone
async def note_invoice(
    body: NewInvoice, admin: SystemAdminDep, access: OrgAdminDep, services: ServicesDep
) -> InvoiceNoted:
    """An invoice that failed makes the subscription past due; when none is open any more, it is
    active again. The same word twice is one. 409 for a failure of an invoice that is paid, and for
    the same invoice with another amount.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        subscription = await conn.fetchrow(SUBSCRIPTIONS["find_subscription"], access.org_id)
        if subscription is None:
            raise ApiError(404, "This organization has no subscription")
        at = await _note(conn, access, body)
        counted = await conn.fetchrow(CORRECTIONS["count_invoices"], access.org_id, None)
        assert counted is not None, "an aggregate has one row"
        before, outstanding = subscription["status"], counted["outstanding"]
        after = "past_due" if outstanding > 0 else "active"
        changed = await conn.fetchval(CORRECTIONS["set_payment_status"], access.org_id, after)
        if changed is not None:
            await write_audit(
                conn,
                actor=access.user_id,
                action="org.subscription.past_due"
                if after == "past_due"
                else "org.subscription.paid",
                org_id=access.org_id,
                target=str(changed),
                before={"status": before},
                after={"status": after, "outstanding_balance": str(outstanding)},
            )
    return InvoiceNoted(
        invoice=InvoiceView(
            invoice_id=body.lago_invoice_id,
            status=body.status,
            amount=float(body.amount),
            currency="USD",
            at=at,
        ),
        subscription_status=before if changed is None else after,
        outstanding_balance=float(outstanding),
    )


async def _note(conn: Connection, access: Access, body: NewInvoice) -> datetime:
    """When the invoice was first said to be this. The subscription is locked: one word at a
    time.
    """
    event_type = f"invoice_{body.status}"
    known = await conn.fetchrow(CORRECTIONS["find_invoice"], access.org_id, body.lago_invoice_id)
    if known is not None:
        if known["amount"] != body.amount:
            raise ApiError(
                409,
                f"amount: this invoice is one of {known['amount']} dollars",
                details={"field": "amount"},
            )
        if known["event_type"] == event_type:
            at: datetime = known["created_at"]
            return at
        if body.status == "failed":
            raise ApiError(409, "status: this invoice is paid already", details={"field": "status"})
    noted: datetime = await conn.fetchval(
        CORRECTIONS["record_invoice"],
        access.org_id,
        event_type,
        body.amount,
        body.lago_invoice_id,
        to_json({"noted_by": access.user_id}),
    )
    await write_audit(
        conn,
        actor=access.user_id,
        action=f"org.invoice.{body.status}",
        org_id=access.org_id,
        target=body.lago_invoice_id,
        after={"status": body.status, "amount": str(body.amount)},
    )
    return noted
