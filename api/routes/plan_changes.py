"""Moves a subscription to a larger plan, or ends it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from fastapi import APIRouter
from pydantic import BaseModel, Field, StrictBool

from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.billing.plans import plan_of
from taximeter.api.billing.proration import prorate
from taximeter.api.billing.subscriptions import is_canceled, running_subscription
from taximeter.api.billing.views import SubscriptionView, subscription_view
from taximeter.api.running.dependencies import Access, CallerFirstRoute, OrgAdminDep, ServicesDep
from taximeter.api.settings.plans import Plan
from taximeter.api.sql import SUBSCRIPTIONS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import Body, ShortText
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(
    prefix="/api/v1/org-billing", tags=["subscriptions"], route_class=CallerFirstRoute
)


class Upgrade(Body):
    """The plan to move to."""

    new_plan_code: ShortText = Field(examples=["enterprise"])
    effective_immediately: StrictBool = Field(
        default=True, description="If false, the plan changes at the end of the period"
    )


class PriceChange(BaseModel):
    """Dollars a month, and what the rest of this period costs more."""

    old_price: float
    new_price: float
    proration: float


class Upgraded(BaseModel):
    """The subscription after an upgrade, and its price."""

    subscription: SubscriptionView
    price_change: PriceChange


class Canceled(BaseModel):
    """A subscription that ends, and the day on which it does."""

    subscription: SubscriptionView
    effective_date: date


class Resumed(BaseModel):
    """A subscription that goes on after all."""

    subscription: SubscriptionView


@router.put("/subscriptions/{org_id}/upgrade", summary="Move to a larger plan")
@again_when_undone
async def upgrade_subscription(
    body: Upgrade,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Upgraded:
    """At once, with the difference for the days that are left of the period, or from its end on.

    400 for a plan that is unknown, the same or smaller; 409 for a subscription that ends.
    """
    plan = plan_of(body.new_plan_code, "new_plan_code")
    async with services.pool.acquire() as conn, conn.transaction():
        return await answer_once(
            conn,
            Repeatable("subscriptions.upgrade", access.org_id, idempotency_key, body),
            Upgraded,
            lambda: _upgrade(conn, access, plan, body.effective_immediately),
        )


async def _upgrade(conn: Connection, access: Access, plan: Plan, at_once: bool) -> Upgraded:
    org_id = access.org_id
    before = await running_subscription(conn, org_id)
    if before["cancel_at_period_end"]:
        raise is_canceled()
    old_price: Decimal = before["monthly_price"]
    if plan.monthly_price <= old_price:
        raise ApiError(
            400,
            f"new_plan_code: {plan.code} is no upgrade from {before['plan_code']}",
            details={"field": "new_plan_code", "current_plan": before["plan_code"]},
        )
    if at_once:
        today = await conn.fetchval(SUBSCRIPTIONS["today"])
        cycle = (before["billing_cycle_start"], before["billing_cycle_end"])
        proration = prorate(old_price, plan.monthly_price, *cycle, today)
        after = await conn.fetchrow(
            SUBSCRIPTIONS["change_plan"], org_id, plan.code, plan.name, plan.monthly_price
        )
        metadata = {
            "from_plan": before["plan_code"],
            "to_plan": plan.code,
            "effective_immediately": True,
            "upgraded_by": access.user_id,
        }
        await conn.execute(
            SUBSCRIPTIONS["record_event"],
            org_id,
            "subscription_upgraded",
            proration,
            to_json(metadata),
        )
    else:
        proration = Decimal(0)
        pending = {
            "plan_code": plan.code,
            "plan_name": plan.name,
            "monthly_price": plan.monthly_price,
            "requested_by": access.user_id,
        }
        after = await conn.fetchrow(SUBSCRIPTIONS["plan_for_later"], org_id, to_json(pending))
    assert after is not None, "its row is locked"
    await write_audit(
        conn,
        actor=access.user_id,
        action="org.subscription.upgraded" if at_once else "org.subscription.upgrade_requested",
        org_id=org_id,
        target=str(after["id"]),
        before={"plan_code": before["plan_code"], "monthly_price": str(old_price)},
        after={
            "plan_code": plan.code,
            "monthly_price": str(plan.monthly_price),
            "proration": str(proration),
            "effective_immediately": at_once,
        },
    )
    return Upgraded(
        subscription=subscription_view(after),
        price_change=PriceChange(
            old_price=float(old_price),
            new_price=float(plan.monthly_price),
            proration=float(proration),
        ),
    )


@router.delete("/subscriptions/{org_id}", summary="Cancel at the end of the period")
@again_when_undone
async def cancel_subscription(
    access: OrgAdminDep, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> Canceled:
    """The subscription stays active until the period ends, and its credits stay what they are.
    After that the organisation can be subscribed again. Canceling twice is canceling once.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        return await answer_once(
            conn,
            Repeatable("subscriptions.cancel", access.org_id, idempotency_key),
            Canceled,
            lambda: _cancel(conn, access),
        )


async def _cancel(conn: Connection, access: Access) -> Canceled:
    org_id = access.org_id
    before = await running_subscription(conn, org_id)
    ends_on: date = before["billing_cycle_end"]
    if before["cancel_at_period_end"]:
        return Canceled(subscription=subscription_view(before), effective_date=ends_on)
    after = await conn.fetchrow(SUBSCRIPTIONS["cancel_subscription"], org_id)
    assert after is not None, "its row is locked"
    metadata = {
        "plan_code": before["plan_code"],
        "effective_date": ends_on,
        "canceled_by": access.user_id,
    }
    await conn.execute(
        SUBSCRIPTIONS["record_event"], org_id, "subscription_canceled", None, to_json(metadata)
    )
    await write_audit(
        conn,
        actor=access.user_id,
        action="org.subscription.canceled",
        org_id=org_id,
        target=str(after["id"]),
        before={"status": before["status"], "cancel_at_period_end": False},
        after={
            "status": after["status"],
            "cancel_at_period_end": True,
            "effective_date": ends_on,
        },
    )
    return Canceled(subscription=subscription_view(after), effective_date=ends_on)


@router.post("/subscriptions/{org_id}/resume", summary="Undo a cancellation")
@again_when_undone
async def resume_subscription(
    access: OrgAdminDep, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> Resumed:
    """The subscription goes on as if it had not been canceled, with the plan that it has.
    Repeating it changes nothing. 409 once it has ended: then a system admin subscribes the
    organisation again.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        return await answer_once(
            conn,
            Repeatable("subscriptions.resume", access.org_id, idempotency_key),
            Resumed,
            lambda: _resume(conn, access),
        )


async def _resume(conn: Connection, access: Access) -> Resumed:
    org_id = access.org_id
    before = await running_subscription(conn, org_id)
    if not before["cancel_at_period_end"]:
        return Resumed(subscription=subscription_view(before))
    after = await conn.fetchrow(SUBSCRIPTIONS["resume_subscription"], org_id)
    assert after is not None, "its row is locked"
    metadata = {"plan_code": before["plan_code"], "resumed_by": access.user_id}
    await conn.execute(
        SUBSCRIPTIONS["record_event"], org_id, "subscription_resumed", None, to_json(metadata)
    )
    await write_audit(
        conn,
        actor=access.user_id,
        action="org.subscription.resumed",
        org_id=org_id,
        target=str(after["id"]),
        before={"cancel_at_period_end": True},
        after={"cancel_at_period_end": False},
    )
    return Resumed(subscription=subscription_view(after))
