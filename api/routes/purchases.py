"""Buying credits: once per payment, however often the request comes."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from taximeter.api.audit import to_json, write_audit
from taximeter.api.deps import OrgAdminDep, ServicesDep
from taximeter.api.errors import ApiError
from taximeter.api.exact import Body, Credits, Dollars, ExactRoute, ShortText, credits_of
from taximeter.api.queries import CREDITS
from taximeter.api.views import PoolView, pool_view
from taximeter.settler.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=ExactRoute)


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
async def add_credits(
    body: Purchase,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: Annotated[ShortText | None, Header(alias="Idempotency-Key")] = None,
) -> Purchased:
    """The same `stripe_payment_id` or `Idempotency-Key` adds once; a repetition gets the first
    answer's transaction.

    409 if it is repeated with another number of credits or another amount.
    """
    org_id = access.org_id
    async with services.pool.acquire() as conn, conn.transaction():
        keys = [
            f"purchase/{kind}/{org_id}/{value}"
            for kind, value in (("key", idempotency_key), ("stripe", body.stripe_payment_id))
            if value is not None
        ]
        for key in sorted(keys):
            await conn.execute(CREDITS["lock_purchase_key"], key)
        line = None
        if keys:
            line = await conn.fetchrow(
                CREDITS["find_purchase"], org_id, body.stripe_payment_id, idempotency_key
            )
        if line is not None:
            _refuse_other_purchase(line, body)
        else:
            line = await book_purchase(
                conn,
                org_id,
                access.user_id,
                millicredits=body.credits,
                dollars=body.purchase_amount,
                stripe_payment_id=body.stripe_payment_id,
                idempotency_key=idempotency_key,
            )
        pool = await conn.fetchrow(CREDITS["pool"], org_id)
        assert pool is not None, "credits were added to it"
    return Purchased(pool=pool_view(pool), transaction=_view(line))


async def book_purchase(
    conn: Connection,
    org_id: str,
    buyer: str,
    *,
    millicredits: int,
    dollars: Decimal,
    stripe_payment_id: str | None = None,
    idempotency_key: str | None = None,
) -> asyncpg.Record:
    """Add the credits, in the caller's transaction; returns the history line. Raises ApiError 400
    over the cap.
    """
    try:
        await conn.execute(CREDITS["add_credits"], org_id, millicredits, dollars)
    except asyncpg.CheckViolationError as error:
        raise ApiError(
            400, "credits: the pool would be larger than its cap", details={"field": "credits"}
        ) from error
    metadata: dict[str, object] = {"millicredits": millicredits, "purchased_by": buyer}
    if idempotency_key is not None:
        metadata["idempotency_key"] = idempotency_key
    line = await conn.fetchrow(
        CREDITS["describe_purchase"], org_id, stripe_payment_id, to_json(metadata)
    )
    assert line is not None, "add_credits_to_pool has written it in this transaction"
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert pool is not None, "add_credits_to_pool has made it"
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
        },
        request_id=idempotency_key,
    )
    return line


def _metadata(line: asyncpg.Record) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(line["metadata"])
    return document


def _refuse_other_purchase(line: asyncpg.Record, body: Purchase) -> None:
    first = (_metadata(line).get("millicredits"), line["amount"], line["stripe_payment_id"])
    second = (body.credits, body.purchase_amount, body.stripe_payment_id)
    if first != second:
        raise ApiError(
            409,
            "This payment or Idempotency-Key has already bought something else",
            details={"transaction_id": str(line["id"])},
        )


def _view(line: asyncpg.Record) -> TransactionView:
    return TransactionView(
        id=str(line["id"]),
        event_type=line["event_type"],
        amount=float(line["amount"]),
        credits=credits_of(_metadata(line)["millicredits"]),
        created_at=line["created_at"],
    )
