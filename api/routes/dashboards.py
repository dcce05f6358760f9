"""Shows the dashboard of an organisation's admin."""

from __future__ import annotations

import datetime as dt

from asyncpg import Record
from fastapi import APIRouter
from pydantic import BaseModel, Field

from taximeter.api.access.user_emails import emails_of
from taximeter.api.billing.activity import with_activity
from taximeter.api.billing.live_balances import with_balance
from taximeter.api.billing.usage_reports import LEFT_OUT, Scope, last_days
from taximeter.api.billing.views import (
    AllocationView,
    FromBooks,
    PoolDetails,
    allocation_view,
    pool_details,
)
from taximeter.api.running.dependencies import CallerFirstRoute, OrgAdminDep, ServicesDep
from taximeter.api.sql import CREDITS, DASHBOARDS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.paging import COUNTED_MAX, TOTAL, total_of
from taximeter.meter.wire.credits import credits_of

router = APIRouter(prefix="/api/v1/org-billing", tags=["dashboards"], route_class=CallerFirstRoute)

ALLOCATIONS_MAX = 100
USERS_MAX = 100
ACTIVITY_MAX = 20
ENDING_MAX = 20
TOLD_MAX = 10
"""Of so many of the newest allocations it is told what their users did lately."""


class OrganizationView(BaseModel):
    """Who the dashboard is about."""

    org_id: str
    org_name: str
    created_at: dt.datetime


class SubscriptionSummary(BaseModel):
    """What the organisation pays, in dollars a month. Nothing is billed next when it ends."""

    plan_code: str
    plan_name: str
    monthly_price: float
    status: str
    next_billing_date: dt.date | None


class ServiceTotal(BaseModel):
    """Usage of one kind of service."""

    credits: float
    requests: int


class UserTotal(BaseModel):
    """Usage of one user."""

    user_id: str
    user_email: str | None
    credits: float
    requests: int


class LastDays(BaseModel):
    """Usage of the last 30 days in UTC, today included. `by_user` has the 100 largest."""

    total_credits: float
    total_requests: int
    by_service: dict[str, ServiceTotal]
    by_user: list[UserTotal]
    by_user_left_out: bool = Field(description=LEFT_OUT)


class UsageStats(BaseModel):
    """Usage by how far back it goes."""

    last_30_days: LastDays


class Activity(BaseModel):
    """A line of the billing history: `amount` is money, `credits` what a purchase brought."""

    event_type: str
    amount: float | None
    credits: float | None
    status: str
    created_at: dt.datetime


class OrganizationDashboard(FromBooks):
    """Everything about an organisation's credits at a glance."""

    organization: OrganizationView
    subscription: SubscriptionSummary | None
    credit_pool: PoolDetails
    user_allocations: list[AllocationView]
    user_allocations_total: int | None = Field(description=TOTAL)
    ending_allocations: list[AllocationView] = Field(
        description="Those that end next, the first 20; what is left is as settled"
    )
    usage_stats: UsageStats
    recent_activity: list[Activity]


@router.get("/billing/org/{org_id}", summary="The dashboard of an organization")
async def get_organization_dashboard(
    access: OrgAdminDep, services: ServicesDep
) -> OrganizationDashboard:
    """Subscription, pool, the newest 100 active allocations with live balances, 30 days of usage
    what ends next, and the last lines of the billing history.

    Every charge that was acknowledged before the question is included; `complete` and `as_of` say
    if that took too long.
    """
    org_id = access.org_id
    first, last = last_days()
    scope = Scope(org_id, first, last)
    books = await services.catch_up.of_org(org_id)
    # One snapshot, so that the parts add up.
    async with (
        services.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        organization = await conn.fetchrow(DASHBOARDS["organization"], org_id)
        subscription = await conn.fetchrow(DASHBOARDS["subscription"], org_id)
        pool = await conn.fetchrow(CREDITS["pool"], org_id)
        active = (org_id, None, True)
        counted = await conn.fetchval(CREDITS["count_allocations"], *active, COUNTED_MAX + 1)
        rows = await conn.fetch(
            CREDITS["list_allocations"], *active, ALLOCATIONS_MAX, 0, None, None, None
        )
        ending = await conn.fetch(CREDITS["ending_allocations"], org_id, ENDING_MAX)
        by_service = await scope.by_service(conn)
        few_users = await scope.has_few_users(conn)
        by_user = await scope.by_user(conn, USERS_MAX) if few_users else []
        emails = await emails_of(conn, org_id, (row["name"] for row in by_user))
        history = await conn.fetch(DASHBOARDS["recent_activity"], org_id, ACTIVITY_MAX)
    if organization is None:
        raise ApiError(404, "Organization not found")
    balances = await services.live.read([(org_id, row["user_id"]) for row in rows])
    newest = [with_balance(row, org_id, balances) for row in rows]
    told = await with_activity(services.pool, org_id, newest[:TOLD_MAX])
    return OrganizationDashboard(
        as_of=books.as_of,
        complete=books.complete,
        organization=OrganizationView(
            org_id=org_id,
            org_name=organization["org_name"],
            created_at=organization["created_at"],
        ),
        subscription=None if subscription is None else _subscription(subscription),
        credit_pool=pool_details(org_id, pool, books),
        user_allocations=[*told, *newest[TOLD_MAX:]],
        user_allocations_total=total_of(counted),
        ending_allocations=[allocation_view(row) for row in ending],
        usage_stats=UsageStats(
            last_30_days=LastDays(
                total_credits=credits_of(sum(row["credits_used"] for row in by_service)),
                total_requests=sum(row["requests"] for row in by_service),
                by_service={
                    row["name"]: ServiceTotal(
                        credits=credits_of(row["credits_used"]), requests=row["requests"]
                    )
                    for row in by_service
                },
                by_user=[
                    UserTotal(
                        user_id=row["name"],
                        user_email=emails.get(row["name"]),
                        credits=credits_of(row["credits_used"]),
                        requests=row["requests"],
                    )
                    for row in by_user
                ],
                by_user_left_out=not few_users,
            )
        ),
        recent_activity=[_activity(row) for row in history],
    )


def _subscription(row: Record) -> SubscriptionSummary:
    goes_on = row["status"] != "canceled" and not row["cancel_at_period_end"]
    return SubscriptionSummary(
        plan_code=row["plan_code"],
        plan_name=row["plan_name"],
        monthly_price=float(row["monthly_price"]),
        status=row["status"],
        next_billing_date=row["billing_cycle_end"] if goes_on else None,
    )


def _activity(row: Record) -> Activity:
    amount, bought = row["amount"], row["millicredits"]
    return Activity(
        event_type=row["event_type"],
        amount=None if amount is None else float(amount),
        credits=None if bought is None else credits_of(bought),
        status=row["status"],
        created_at=row["created_at"],
    )
