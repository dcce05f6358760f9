"""Buying credits: once per payment, however often the request comes."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
from fastapi import APIRouter
from pydantic import BaseModel, Field

from taximeter.api.access.dependencies import Access, CallerFirstRoute, OrgAdminDep, ServicesDep
from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.billing.views import PoolView, pool_view
from taximeter.api.billing.vouching import who_vouches
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import ApiError, text_of_credits
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import Body, Credits, Dollars, ShortText, credits_of
from taximeter.api.web.retries import again_when_undone
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class Purchase(Body):
    """Credits that were paid for."""

    credits: Credits
    purchase_amount: Dollars = Field(description="What was paid, in dollars")
    stripe_payment_id: ShortText | None = None


class TransactionView(BaseModel):
    """The line of the billing history. `amount` is dollars."""

    id: str
    event_type: str
    amount: float
    credits: float
    created_at: datetime


class Purchased(BaseModel):
    """The pool after a purchase, and the purchase."""

    pool: PoolView
    transaction: TransactionView


@router.post("/credits/{org_id}/add", summary="Add purchased credits to the pool")
@again_when_undone
async def add_credits(
    body: Purchase,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Purchased:
    """System admins add what they vouch for; an organisation's own admin what a verified payment
    has paid for, exactly its credits and its amount, or anything where a setting opens that.

    The same `stripe_payment_id` or `Idempotency-Key` adds once; a repetition is answered as the
    first request was. 403 for an organisation's admin without a verified payment. 409 if it is
    repeated with another number of credits or another amount, or if another organisation has used
    the payment.
    """
    org_id, payment = access.org_id, body.stripe_payment_id
    vouched_by = await who_vouches(
        services,
        access,
        millicredits=body.credits,
        dollars=body.purchase_amount,
        payment_id=payment,
    )
    async with services.pool.acquire() as conn, conn.transaction():
        by_key = Repeatable("credits.add", org_id, idempotency_key, body)
        by_payment = Repeatable("credits.payment", org_id, payment, body, "stripe_payment_id")
        return await answer_once(
            conn,
            by_key,
            Purchased,
            lambda: answer_once(
                conn,
                by_payment,
                Purchased,
                lambda: _purchase(conn, access, body, vouched_by, idempotency_key),
            ),
        )


async def _purchase(
    conn: Connection,
    access: Access,
    body: Purchase,
    vouched_by: str,
    idempotency_key: str | None,
) -> Purchased:
    org_id, line = access.org_id, None
    if body.stripe_payment_id is not None:
        # Answers are pruned one day, and a payment must not buy anything after that either.
        line = await conn.fetchrow(CREDITS["find_payment"], body.stripe_payment_id)
    if line is not None:
        _refuse_other_purchase(line, org_id, body)
    else:
        line = await book_purchase(
            conn,
            org_id,
            access.user_id,
            millicredits=body.credits,
            dollars=body.purchase_amount,
            vouched_by=vouched_by,
            stripe_payment_id=body.stripe_payment_id,
            idempotency_key=idempotency_key,
        )
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert pool is not None, "credits were added to it"
    return Purchased(pool=pool_view(pool), transaction=transaction_view(line))


async def book_purchase(
    conn: Connection,
    org_id: str,
    buyer: str,
    *,
    millicredits: int,
    dollars: Decimal,
    vouched_by: str,
    stripe_payment_id: str | None = None,
    idempotency_key: str | None = None,
) -> asyncpg.Record:
    """Add the credits, in the caller's transaction; returns the history line. `vouched_by` says why
    the purchase is believed. Raises ApiError 400 over the cap, 409 for a payment that has bought
    credits.
    """
    metadata: dict[str, object] = {"millicredits": millicredits, "purchased_by": buyer}
    metadata["vouched_by"] = vouched_by
    if idempotency_key is not None:
        metadata["idempotency_key"] = idempotency_key
    try:
        line = await conn.fetchrow(
            CREDITS["buy_credits"],
            org_id,
            millicredits,
            dollars,
            stripe_payment_id,
            to_json(metadata),
        )
    except asyncpg.CheckViolationError as error:
        raise ApiError(
            400,
            f"credits: a pool holds at most {text_of_credits(BALANCE_MAX)} credits",
            details={"field": "credits", "limit": credits_of(BALANCE_MAX)},
        ) from error
    except asyncpg.UniqueViolationError as error:
        raise _payment_is_used() from error
    assert line is not None, "a purchase that was booked has a line"
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert pool is not None, "a purchase makes it"
    await write_audit(
        conn,
        actor=buyer,
        action="org.credits.purchased",
        org_id=org_id,
        target=str(line["id"]),
        before={"total_credits": pool["total_credits"] - millicredits},
        after={
            "total_credits": pool["total_credits"],
            "purchase_amount": str(dollars),
            "stripe_payment_id": stripe_payment_id,
            "vouched_by": vouched_by,
        },
        request_id=idempotency_key,
    )
    return line


def _metadata(line: asyncpg.Record) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(line["metadata"])
    return document


def _refuse_other_purchase(line: asyncpg.Record, org_id: str, body: Purchase) -> None:
    first = (line["org_id"], _metadata(line).get("millicredits"), line["amount"])
    if first != (org_id, body.credits, body.purchase_amount):
        raise _payment_is_used()


def _payment_is_used() -> ApiError:
    """Says nothing about who has used it: that may be another organisation."""
    return ApiError(
        409,
        "stripe_payment_id: this payment has bought something else already",
        details={"field": "stripe_payment_id"},
    )


def transaction_view(line: asyncpg.Record) -> TransactionView:
    """A line of the history that a purchase has written."""
    return TransactionView(
        id=str(line["id"]),
        event_type=line["event_type"],
        amount=float(line["amount"]),
        credits=credits_of(_metadata(line)["millicredits"]),
        created_at=line["created_at"],
    )
