"""Shows the dashboard of the whole system to its admins."""

from __future__ import annotations

import datetime as dt

from asyncpg import Record
from fastapi import APIRouter
from pydantic import BaseModel

from taximeter.api.billing.usage_reports import last_days
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import CallerFirstRoute, ServicesDep, SystemAdminDep
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import DASHBOARDS
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["dashboards"], route_class=CallerFirstRoute)

TOP_MAX = 10
TREND_DAYS = 7


class Metrics(BaseModel):
    """The system in numbers. Recurring revenue is in dollars, of active subscriptions: monthly
    (MRR) and yearly (ARR). `total_credits` is what pools were given: bought, and less or more by
    corrections.
    """

    total_organizations: int
    active_subscriptions: int
    total_mrr: float
    total_arr: float
    total_credits: float
    total_credits_allocated: float
    total_credits_used: float


class PlanShare(BaseModel):
    """Active subscriptions of one plan, and the dollars a month that they bring."""

    count: int
    mrr: float


class TopOrganization(BaseModel):
    """One of the organisations that used most in the last 30 days. `mrr` is 0 without an active
    subscription.
    """

    org_id: str
    org_name: str | None
    plan_code: str | None
    status: str | None
    mrr: float
    credits_used_30d: float
    requests_30d: int


class DayTotal(BaseModel):
    """Usage of the whole system on one day in UTC."""

    date: dt.date
    total_credits: float
    total_requests: int


class UsageTrends(BaseModel):
    """Usage day by day, the earliest first; days without usage are there with zeros."""

    last_7_days: list[DayTotal]


class SystemOverview(FromBooks):
    """The whole system at a glance."""

    metrics: Metrics
    subscription_distribution: dict[str, PlanShare]
    top_organizations: list[TopOrganization]
    usage_trends: UsageTrends


@router.get("/billing/system", summary="The dashboard of the whole system")
async def get_system_overview(
    admin: SystemAdminDep, services: ServicesDep, reports: ReportsDep
) -> SystemOverview:
    """Organisations, revenue, credits and usage over everything.

    Every charge that was acknowledged before the question is included; `complete` and `as_of` say
    if that took too long.
    """
    books = await services.catch_up.of_all()

    async def report(conn: Connection) -> tuple[list[Record], ...]:
        return (
            await conn.fetch(DASHBOARDS["system_metrics"]),
            await conn.fetch(DASHBOARDS["subscription_distribution"]),
            await conn.fetch(DASHBOARDS["top_organizations"], *last_days(), TOP_MAX),
            await conn.fetch(DASHBOARDS["usage_trend"], *last_days(TREND_DAYS)),
        )

    # One snapshot, so that the parts add up.
    (metrics,), plans, top, trend = await reports.read(report)
    mrr = sum(row["mrr"] for row in plans)
    return SystemOverview(
        as_of=books.as_of,
        complete=books.complete,
        metrics=Metrics(
            total_organizations=metrics["organizations"],
            active_subscriptions=sum(row["subscriptions"] for row in plans),
            total_mrr=float(mrr),
            total_arr=float(12 * mrr),
            total_credits=credits_of(metrics["total_credits"]),
            total_credits_allocated=credits_of(metrics["allocated_credits"]),
            total_credits_used=credits_of(metrics["used_credits"]),
        ),
        subscription_distribution={
            row["plan_code"]: PlanShare(count=row["subscriptions"], mrr=float(row["mrr"]))
            for row in plans
        },
        top_organizations=[_top(row) for row in top],
        usage_trends=UsageTrends(
            last_7_days=[
                DayTotal(
                    date=row["day"],
                    total_credits=credits_of(row["credits_used"]),
                    total_requests=row["requests"],
                )
                for row in trend
            ]
        ),
    )


def _top(row: Record) -> TopOrganization:
    pays = row["status"] == "active"
    return TopOrganization(
        org_id=row["org_id"],
        org_name=row["org_name"],
        plan_code=row["plan_code"],
        status=row["status"],
        mrr=float(row["monthly_price"]) if pays else 0.0,
        credits_used_30d=credits_of(row["credits_used"]),
        requests_30d=row["requests"],
    )
