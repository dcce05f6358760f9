"""Corrects by hand, each time with a reason: refunds, adjustments, the monthly refresh."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import asyncpg
from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from taximeter.api.billing.allocations import (
    allocate_credits,
    allocating,
    pool_cannot_pay,
)
from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.billing.purchases import pool_is_full
from taximeter.api.billing.views import AllocationView, PoolView, pool_view
from taximeter.api.running.dependencies import (
    Access,
    CallerFirstRoute,
    OrgAdminDep,
    ServicesDep,
    SystemAdminDep,
)
from taximeter.api.sql import CORRECTIONS, CREDITS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import (
    Body,
    Credits,
    Dollars,
    ShortText,
    UserId,
    positive_millicredits,
)
from taximeter.api.web.retries import again_when_undone
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


def _more_or_less(value: object) -> int:
    """Millicredits of a number of credits that may be negative."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool) and value < 0:
        return -positive_millicredits(-value)
    return positive_millicredits(value)


def _none_or_more(value: object) -> int:
    return 0 if value == 0 and not isinstance(value, (bool, str)) else positive_millicredits(value)


_MORE_OR_LESS = WithJsonSchema({"type": "number", "multipleOf": 0.001, "not": {"const": 0}})
_NONE_OR_MORE = WithJsonSchema({"type": "number", "minimum": 0, "multipleOf": 0.001})


class Refund(Body):
    """Credits that go back to a user, and why."""

    user_id: UserId
    credits: Credits
    reason: ShortText
    request_id: ShortText | None = Field(
        default=None,
        max_length=128,
        description="The request whose charge is given back, at most as much as it was",
    )
    refund_amount: Dollars = Field(
        default=Decimal(0), description="Dollars that are paid back, for the history"
    )


class Adjustment(Body):
    """Credits that a pool gets, or loses if the number is negative, and why."""

    credits: Annotated[int, BeforeValidator(_more_or_less), _MORE_OR_LESS]
    reason: ShortText


class MonthlyRefresh(Body):
    """What the pool gets every month."""

    credits: Annotated[int, BeforeValidator(_none_or_more), _NONE_OR_MORE] = Field(
        description="Credits a month, from the next month on; 0 ends it"
    )


class CorrectionView(BaseModel):
    """The line of the billing history."""

    id: str
    event_type: str
    credits: float
    reason: str
    created_at: datetime


class Refunded(BaseModel):
    """What the user has now, and the line of the history."""

    allocation: AllocationView
    pool: PoolView
    correction: CorrectionView


class Adjusted(BaseModel):
    """The pool after an adjustment, and the line of the history."""

    pool: PoolView
    correction: CorrectionView


class RefreshSet(BaseModel):
    """What the pool gets every month from now on."""

    org_id: str
    monthly_refresh_amount: float


@router.post("/credits/{org_id}/refund", summary="Give a user credits back")
@again_when_undone
async def refund(
    body: Refund,
    admin: SystemAdminDep,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Refunded:
    """Adds the credits to the pool and to the user's allocation, and writes down why. What was used
    stays on record: a refund is a line of its own, `credits_refunded`.

    With a `request_id`, at most what that request of the user was charged is given back, over all
    refunds of it: 400 beyond that, 404 if the user was charged for no such request. 404 for a user
    who is no active member.
    """
    org_id = access.org_id
    async with allocating(services.pool, org_id, body.credits) as conn:
        answer = await answer_once(
            conn,
            Repeatable("credits.refund", org_id, idempotency_key, body),
            Refunded,
            lambda: _refund(conn, access, body),
        )
    services.memberships.forget(body.user_id)
    return answer.model_copy(
        update={"allocation": await services.live.made_live(org_id, answer.allocation)}
    )


async def _refund(conn: Connection, access: Access, body: Refund) -> Refunded:
    org_id = access.org_id
    if body.request_id is not None:
        await _refuse_more_than_was_charged(conn, org_id, body, body.request_id)
    # As allocations do: member, allocation and account are locked before the pool.
    await conn.fetchval(CREDITS["lock_member"], org_id, body.user_id)
    await conn.execute(CREDITS["open_account"], org_id, body.user_id, access.user_id)
    if await conn.fetchrow(CORRECTIONS["correct_pool"], org_id, body.credits) is None:
        raise ApiError(404, "This organization has no credit pool")
    allocated = await allocate_credits(
        conn, org_id, body.user_id, body.credits, actor=access.user_id
    )
    correction = await _record(
        conn,
        access,
        "credits_refunded",
        body.credits,
        body.reason,
        dollars=-body.refund_amount,
        more={"user_id": body.user_id, "request_id": body.request_id},
    )
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert pool is not None, "it was corrected above"
    return Refunded(allocation=allocated.allocation, pool=pool_view(pool), correction=correction)


async def _refuse_more_than_was_charged(
    conn: Connection, org_id: str, body: Refund, request_id: str
) -> None:
    await conn.execute(CORRECTIONS["lock_charge"], org_id, request_id)
    row = await conn.fetchrow(CORRECTIONS["charged_and_refunded"], org_id, body.user_id, request_id)
    assert row is not None, "a query without FROM has one row"
    if row["charged"] is None:
        raise ApiError(
            404,
            "No charge of this request id is known for this user",
            details={"field": "request_id"},
        )
    left = row["charged"] - row["refunded"]
    if body.credits > left:
        raise ApiError(
            400,
            f"credits: {text_of_credits(max(left, 0))} of this request's charge of"
            f" {text_of_credits(row['charged'])} can be refunded",
            details={"field": "credits", "limit": credits_of(max(left, 0))},
        )


@router.post("/credits/{org_id}/adjust", summary="Correct the credits of a pool")
@again_when_undone
async def adjust(
    body: Adjustment,
    admin: SystemAdminDep,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Adjusted:
    """Adds credits to the pool, or takes them out of what is not allocated, and writes down why:
    `credits_adjusted` in the history. 400 INSUFFICIENT_CREDITS if the pool has less available.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        return await answer_once(
            conn,
            Repeatable("credits.adjust", access.org_id, idempotency_key, body),
            Adjusted,
            lambda: _adjust(conn, access, body),
        )


async def _adjust(conn: Connection, access: Access, body: Adjustment) -> Adjusted:
    org_id = access.org_id
    try:
        pool = await conn.fetchrow(CORRECTIONS["correct_pool"], org_id, body.credits)
    except asyncpg.CheckViolationError as error:
        raise pool_is_full() from error
    if pool is None:
        there = await conn.fetchrow(CREDITS["pool"], org_id)
        if there is None:
            raise ApiError(404, "This organization has no credit pool")
        raise pool_cannot_pay(-body.credits, there["available_credits"])
    correction = await _record(conn, access, "credits_adjusted", body.credits, body.reason)
    return Adjusted(pool=pool_view(pool), correction=correction)


async def _record(
    conn: Connection,
    access: Access,
    event_type: str,
    millicredits: int,
    reason: str,
    *,
    dollars: Decimal | None = None,
    more: dict[str, object] | None = None,
) -> CorrectionView:
    metadata = {
        "millicredits": millicredits,
        "reason": reason,
        "corrected_by": access.user_id,
        **(more or {}),
    }
    line = await conn.fetchrow(
        CORRECTIONS["record_correction"], access.org_id, event_type, dollars, to_json(metadata)
    )
    assert line is not None, "an insert returns its row"
    pool = await conn.fetchrow(CREDITS["pool"], access.org_id)
    assert pool is not None, "it was corrected in this transaction"
    await write_audit(
        conn,
        actor=access.user_id,
        action=f"org.{event_type.replace('_', '.')}",
        org_id=access.org_id,
        target=str(line["id"]),
        before={"total_credits": pool["total_credits"] - millicredits},
        after={"total_credits": pool["total_credits"], "reason": reason, **(more or {})},
    )
    return CorrectionView(
        id=str(line["id"]),
        event_type=event_type,
        credits=credits_of(millicredits),
        reason=reason,
        created_at=line["created_at"],
    )


@router.put("/credits/{org_id}/monthly-refresh", summary="Set what the pool gets every month")
@again_when_undone
async def set_monthly_refresh(
    body: MonthlyRefresh, admin: SystemAdminDep, access: OrgAdminDep, services: ServicesDep
) -> RefreshSet:
    """From the next month on, at its first minutes (UTC); this month has its credits by other
    means. What is left over stays. While the subscription is past due, months wait.
    """
    org_id = access.org_id
    async with services.pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(CORRECTIONS["set_refresh"], org_id, body.credits)
        if row is None:
            raise ApiError(404, "This organization has no credit pool")
        await write_audit(
            conn,
            actor=access.user_id,
            action="org.refresh.set",
            org_id=org_id,
            target=org_id,
            before={"monthly_refresh_credits": row["amount_before"]},
            after={"monthly_refresh_credits": body.credits},
        )
    return RefreshSet(org_id=org_id, monthly_refresh_amount=credits_of(body.credits))
