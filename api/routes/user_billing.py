"""Shows what a user has, over all of their organisations."""

from __future__ import annotations

from datetime import date, datetime

from asyncpg import Record
from fastapi import APIRouter
from pydantic import BaseModel, Field

from taximeter.api.access.memberships import MEMBERSHIPS_MAX
from taximeter.api.billing.usage_reports import last_days
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import PrincipalDep, ServicesDep
from taximeter.api.sql import USERS
from taximeter.meter.wire.credits import credits_of

router = APIRouter(prefix="/api/v1/org-billing", tags=["user"])


class SubscriptionOfUser(BaseModel):
    """The plan of one of the user's organisations. The price is dollars a month."""

    plan_code: str
    plan_name: str
    status: str
    monthly_price: float


class AllocationOfUser(BaseModel):
    """What the user may spend there. Remaining is live if `live` is true, else as settled."""

    allocated_credits: float
    used_credits: float
    remaining_credits: float
    live: bool
    expires_at: datetime | None = Field(description="When what is left then is gone; null: never")
    auto_renew: bool = Field(description="Whether it begins anew then")


class BillingOfOrganization(BaseModel):
    """One organisation of the user. Personal is the one that holds their individual credits.

    `next_reset_date` is when the allocation renews itself, else when the next period begins.
    """

    org_id: str
    org_name: str
    role: str
    personal: bool
    subscription: SubscriptionOfUser | None
    allocation: AllocationOfUser | None
    next_reset_date: date | None


class Totals(BaseModel):
    """The sums over all organisations."""

    organizations: int
    allocated_credits: float
    used_credits: float
    remaining_credits: float


class UsageOfUser(BaseModel):
    """The user's own usage of the last 30 days in UTC, today included."""

    total_requests: int
    total_credits: float
    avg_cost_per_request: float
    last_request_at: datetime | None = Field(
        description="When the user was last charged, as settled, if that was in the last 90 days"
    )


class BillingOfUser(FromBooks):
    """The caller's organisations, in the order in which they are asked to pay."""

    user_id: str
    organizations: list[BillingOfOrganization]
    totals: Totals
    usage_last_30_days: UsageOfUser


@router.get("/billing/user", summary="My organizations, credits and usage")
async def get_user_billing(principal: PrincipalDep, services: ServicesDep) -> BillingOfUser:
    """Role, plan and allocation in each organisation, their sums, and the last 30 days of usage."""
    user_id = principal.user_id
    mine = await services.memberships.of(user_id)
    books = await services.catch_up.of_orgs(one.org_id for one in mine)
    async with (
        services.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await conn.fetch(USERS["billing_of_user"], user_id, MEMBERSHIPS_MAX)
        org_ids = [row["org_id"] for row in rows]
        usage = await conn.fetchrow(USERS["usage_of_user"], user_id, org_ids, *last_days())
        last_request_at = await conn.fetchval(USERS["last_request_of_user"], user_id, org_ids)
    assert usage is not None, "a sum has a row"
    accounts = [(row["org_id"], user_id) for row in rows if row["allocation_id"] is not None]
    balances = await services.live.read(accounts)
    live = {org_id: balance.available + balance.held for (org_id, _), balance in balances.items()}
    allocated = [row for row in rows if row["allocation_id"] is not None]
    used, requests = usage["credits_used"], usage["requests"]
    return BillingOfUser(
        as_of=books.as_of,
        complete=books.complete,
        user_id=user_id,
        organizations=[_view(row, live.get(row["org_id"])) for row in rows],
        totals=Totals(
            organizations=len(rows),
            allocated_credits=credits_of(sum(row["allocated_credits"] for row in allocated)),
            used_credits=credits_of(sum(row["used_credits"] for row in allocated)),
            remaining_credits=credits_of(
                sum(live.get(row["org_id"], row["remaining_credits"]) for row in allocated)
            ),
        ),
        usage_last_30_days=UsageOfUser(
            total_requests=requests,
            total_credits=credits_of(used),
            avg_cost_per_request=round(credits_of(used) / requests, 6) if requests else 0.0,
            last_request_at=last_request_at,
        ),
    )


def _view(row: Record, live: int | None) -> BillingOfOrganization:
    has_plan, has_allocation = row["plan_code"] is not None, row["allocation_id"] is not None
    goes_on = has_plan and row["status"] != "canceled" and not row["cancel_at_period_end"]
    if has_allocation and row["auto_renew"] and row["expires_at"] is not None:
        next_reset_date = row["expires_at"].date()
    else:
        next_reset_date = row["billing_cycle_end"] if goes_on else None
    return BillingOfOrganization(
        org_id=row["org_id"],
        org_name=row["org_name"],
        role=row["role"],
        personal=row["personal"],
        subscription=SubscriptionOfUser(
            plan_code=row["plan_code"],
            plan_name=row["plan_name"],
            status=row["status"],
            monthly_price=float(row["monthly_price"]),
        )
        if has_plan
        else None,
        allocation=AllocationOfUser(
            allocated_credits=credits_of(row["allocated_credits"]),
            used_credits=credits_of(row["used_credits"]),
            remaining_credits=credits_of(row["remaining_credits"] if live is None else live),
            live=live is not None,
            expires_at=row["expires_at"],
            auto_renew=row["auto_renew"],
        )
        if has_allocation
        else None,
        next_reset_date=next_reset_date,
    )
