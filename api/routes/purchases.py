"""Adds purchased credits: once per payment, however often the request comes."""

from __future__ import annotations

import asyncpg
from fastapi import APIRouter
from pydantic import BaseModel, Field

from taximeter.api.billing.purchases import (
    TransactionView,
    book_purchase,
    millicredits_bought,
    payment_is_used,
    transaction_view,
)
from taximeter.api.billing.views import PoolView, pool_view
from taximeter.api.billing.vouching import who_vouches
from taximeter.api.running.dependencies import Access, CallerFirstRoute, OrgAdminDep, ServicesDep
from taximeter.api.sql import CREDITS
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import Body, Credits, Dollars, ShortText
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class Purchase(Body):
    """Credits that were paid for."""

    credits: Credits
    purchase_amount: Dollars = Field(description="What was paid, in dollars")
    stripe_payment_id: ShortText | None = None


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
        services.payments,
        org_id,
        is_system_admin=access.principal.is_system_admin,
        open_to_org_admins=services.settings.purchases_by_org_admins,
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


def _refuse_other_purchase(line: asyncpg.Record, org_id: str, body: Purchase) -> None:
    first = (line["org_id"], millicredits_bought(line), line["amount"])
    if first != (org_id, body.credits, body.purchase_amount):
        raise payment_is_used()
