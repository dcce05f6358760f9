"""Subscribes organisations to plans: an organisation begins here."""

from __future__ import annotations

import secrets
from datetime import date
from decimal import Decimal
from typing import Annotated

import asyncpg
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field

from taximeter.api.billing.audit import to_json, write_audit
from taximeter.api.billing.personal import PERSONAL_PREFIX
from taximeter.api.billing.plans import plan_of
from taximeter.api.billing.purchases import book_purchase
from taximeter.api.billing.subscriptions import no_subscription
from taximeter.api.billing.views import PoolView, SubscriptionView, pool_view, subscription_view
from taximeter.api.billing.vouching import BY_PLAN
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    MemberDep,
    PrincipalDep,
    ServicesDep,
    SystemAdminDep,
    claim_if_new,
)
from taximeter.api.settings.plans import PLANS, Plan
from taximeter.api.sql import CREDITS, ORGANIZATIONS, SUBSCRIPTIONS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import (
    Body,
    Credits,
    NewOrgId,
    NewUserId,
    ShortText,
    check_email,
)
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(
    prefix="/api/v1/org-billing", tags=["subscriptions"], route_class=CallerFirstRoute
)


class NewSubscription(Body):
    """What it takes to subscribe an organisation."""

    org_id: NewOrgId
    plan_code: ShortText
    org_name: ShortText
    billing_email: Annotated[ShortText, AfterValidator(check_email)]
    initial_credits: Credits | None = Field(default=None, description="Credits to start with")
    user_id: NewUserId = Field(description="Becomes the organisation's admin")


class SubscriptionCreated(BaseModel):
    """The answer to a new subscription."""

    subscription: SubscriptionView
    credit_pool: PoolView


class SubscriptionDetails(BaseModel):
    """A subscription and what is to be paid: `outstanding_balance` is dollars of failed
    invoices.
    """

    subscription: SubscriptionView
    lago_status: str
    next_billing_date: date | None
    outstanding_balance: float


class PlanView(BaseModel):
    """A plan. The price is dollars a month."""

    plan_code: str
    plan_name: str
    monthly_price: float


class PlanList(BaseModel):
    """What can be subscribed to, the smallest first."""

    plans: list[PlanView]


@router.get("/plans", summary="Plans that can be subscribed to")
async def list_plans(principal: PrincipalDep) -> PlanList:
    """Codes, names and prices. A subscription keeps the price that it was made at."""
    return PlanList(
        plans=[
            PlanView(
                plan_code=plan.code, plan_name=plan.name, monthly_price=float(plan.monthly_price)
            )
            for plan in PLANS.values()
        ]
    )


@router.get("/subscriptions/{org_id}", summary="The subscription of an organization")
async def get_subscription(access: MemberDep, services: ServicesDep) -> SubscriptionDetails:
    """`lago_status` is what the billing system was last heard to say, else our own status. 404 if
    the organisation never had a subscription; nothing is billed next for one that ends.
    """
    row = await services.pool.fetchrow(SUBSCRIPTIONS["read_subscription"], access.org_id)
    if row is None:
        raise no_subscription()
    goes_on = row["status"] != "canceled" and not row["cancel_at_period_end"]
    return SubscriptionDetails(
        subscription=subscription_view(row),
        lago_status=row["lago_status"] or row["status"],
        next_billing_date=row["billing_cycle_end"] if goes_on else None,
        outstanding_balance=float(row["outstanding_balance"]),
    )


@router.post("/subscriptions", summary="Subscribe an organization to a plan")
@again_when_undone
async def create_subscription(
    body: NewSubscription,
    admin: SystemAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> SubscriptionCreated:
    """Creates the organisation if it is new, makes `user_id` its admin, and fills its pool.

    409 if the organisation has a subscription already; one that was canceled starts again, under
    the name that this request gives.
    """
    if body.org_id.startswith(PERSONAL_PREFIX):
        raise ApiError(
            400,
            f"org_id: ids that begin with {PERSONAL_PREFIX} are those of individual credits",
            details={"field": "org_id"},
        )
    plan = plan_of(body.plan_code)
    await claim_if_new(services, body.org_id)
    async with services.pool.acquire() as conn, conn.transaction():
        answer = await answer_once(
            conn,
            Repeatable("subscriptions", admin.user_id, idempotency_key, body),
            SubscriptionCreated,
            lambda: _create(conn, admin.user_id, body, plan),
        )
    services.memberships.forget(body.user_id)
    return answer


async def _create(
    conn: Connection, actor: str, body: NewSubscription, plan: Plan
) -> SubscriptionCreated:
    await _create_organization(conn, body, actor)
    row = await _subscribe(conn, body, plan)
    await conn.execute(SUBSCRIPTIONS["ensure_pool"], body.org_id)
    if body.initial_credits is not None:
        await book_purchase(
            conn,
            body.org_id,
            actor,
            millicredits=body.initial_credits,
            dollars=Decimal(0),  # They come with the plan.
            vouched_by=BY_PLAN,
        )
    pool = await conn.fetchrow(CREDITS["pool"], body.org_id)
    assert pool is not None, "it was made above"
    await write_audit(
        conn,
        actor=actor,
        action="org.subscription.created",
        org_id=body.org_id,
        target=body.user_id,
        after={
            "plan_code": plan.code,
            "monthly_price": str(plan.monthly_price),
            "initial_credits": body.initial_credits or 0,
        },
    )
    return SubscriptionCreated(subscription=subscription_view(row), credit_pool=pool_view(pool))


async def _create_organization(conn: Connection, body: NewSubscription, creator: str) -> None:
    """The organisation and its first admin; one that is there takes the name of this request. The
    slug is the id, or the id and a suffix if another one has that.
    """
    known: asyncpg.Record | None = None
    for slug in (body.org_id, f"{body.org_id}-{secrets.token_hex(4)}"):
        await conn.execute(
            SUBSCRIPTIONS["create_organization"], body.org_id, body.org_name, slug, creator
        )
        known = await conn.fetchrow(SUBSCRIPTIONS["lock_organization"], body.org_id)
        if known is not None:
            break
    assert known is not None, "an organisation of this id is there, or was made"
    if known["deleted_at"] is not None:
        words = "org_id: this organization was deleted; its id is not used again"
        raise ApiError.of("organization_deleted", words=words, details={"field": "org_id"})
    if known["org_name"] != body.org_name:
        await _rename(conn, known["org_name"], body, creator)
    await conn.fetchrow(SUBSCRIPTIONS["put_admin"], body.org_id, body.user_id)


async def _rename(conn: Connection, name_before: str, body: NewSubscription, actor: str) -> None:
    """An organisation that subscribes again under another name has that name from now on."""
    await conn.execute(ORGANIZATIONS["rename_organization"], body.org_id, body.org_name)
    await write_audit(
        conn,
        actor=actor,
        action="org.changed",
        org_id=body.org_id,
        target=body.org_id,
        before={"org_name": name_before},
        after={"org_name": body.org_name},
    )


async def _subscribe(conn: Connection, body: NewSubscription, plan: Plan) -> asyncpg.Record:
    existing = await conn.fetchrow(SUBSCRIPTIONS["find_subscription"], body.org_id)
    if existing is not None and existing["status"] != "canceled":
        raise ApiError(
            409,
            "This organization has a subscription already",
            details={"org_id": body.org_id, "status": existing["status"]},
        )
    row = await conn.fetchrow(
        SUBSCRIPTIONS["put_subscription"],
        body.org_id,
        plan.code,
        plan.name,
        plan.monthly_price,
        to_json({"billing_email": body.billing_email}),
    )
    assert row is not None, "an upsert returns its row"
    await conn.execute(
        SUBSCRIPTIONS["record_event"],
        body.org_id,
        "subscription_created",
        plan.monthly_price,
        to_json({"plan_code": plan.code, "subscription_id": str(row["id"])}),
    )
    return row
