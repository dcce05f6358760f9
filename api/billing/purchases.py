"""Books purchased credits into a pool, in the caller's transaction, with their line of history."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import asyncpg
from asyncpg import Record
from pydantic import BaseModel

from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import ApiError
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.settler.books.stores import Connection


class TransactionView(BaseModel):
    """The line of the billing history. `amount` is dollars."""

    id: str
    event_type: str
    amount: float
    credits: float
    created_at: datetime


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
) -> Record:
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
        raise pool_is_full() from error
    except asyncpg.UniqueViolationError as error:
        raise payment_is_used() from error
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


def pool_is_full() -> ApiError:
    """The refusal of credits that a pool could not hold."""
    return ApiError(
        400,
        f"credits: a pool holds at most {text_of_credits(BALANCE_MAX)} credits",
        details={"field": "credits", "limit": credits_of(BALANCE_MAX)},
    )


def payment_is_used() -> ApiError:
    """Says nothing about who has used it: that may be another organisation."""
    return ApiError(
        409,
        "stripe_payment_id: this payment has bought something else already",
        details={"field": "stripe_payment_id"},
    )


def millicredits_bought(line: Record) -> int:
    """What a line of the history says was bought."""
    bought: int = json.loads(line["metadata"])["millicredits"]
    return bought


def transaction_view(line: Record) -> TransactionView:
    """A line of the history that a purchase has written."""
    return TransactionView(
        id=str(line["id"]),
        event_type=line["event_type"],
        amount=float(line["amount"]),
        credits=credits_of(millicredits_bought(line)),
        created_at=line["created_at"],
    )
