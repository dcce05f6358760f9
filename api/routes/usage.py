"""Usage reports, from the daily rollup: as fast for a year as for a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.deps import MemberDep, ServicesDep
from taximeter.api.errors import ApiError
from taximeter.api.exact import ExactRoute, ShortText, UserId, credits_of
from taximeter.api.queries import USAGE
from taximeter.api.routes.credits import own_user
from taximeter.api.users import emails_of
from taximeter.api.views import percentage

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=ExactRoute)

DEFAULT_DAYS = 30
RANGE_DAYS_MAX = 366
ROWS_MAX = 1000

GroupBy = Literal["user", "service", "model", "day", "week", "month"]


class ServiceUsage(BaseModel):
    """Usage of one kind of service."""

    credits_used: float
    requests: int
    avg_cost_per_request: float


class UserUsage(BaseModel):
    """Usage of one user, and its part of the whole in percent."""

    user_id: str
    user_email: str | None = None
    credits_used: float
    requests: int
    percentage: float


class DayUsage(BaseModel):
    """Usage of one day in UTC."""

    date: date
    credits_used: float
    requests: int


class GroupUsage(BaseModel):
    """Usage of one group of what `group_by` asked for."""

    key: str
    credits_used: float
    requests: int


class UsageReport(BaseModel):
    """Settled usage of a range of days, both ends included. `as_of` says how far the books are
    settled.
    """

    org_id: str
    start_date: date
    end_date: date
    as_of: datetime | None
    total_credits_used: float
    total_requests: int
    breakdown_by_service: dict[str, ServiceUsage]
    breakdown_by_user: list[UserUsage]
    breakdown_by_day: list[DayUsage]
    group_by: GroupBy | None = None
    groups: list[GroupUsage] = Field(default_factory=list)


@router.get("/credits/{org_id}/usage", summary="What credits were used for")
async def get_usage(
    access: MemberDep,
    services: ServicesDep,
    start_date: Annotated[date | None, Query()] = None,
    end_date: Annotated[date | None, Query()] = None,
    user_id: Annotated[UserId | None, Query()] = None,
    service_type: Annotated[ShortText | None, Query()] = None,
    group_by: Annotated[GroupBy | None, Query()] = None,
) -> UsageReport:
    """Admins see everybody, members themselves. Lists of users and models have the 1000 largest."""
    first, last = _range(start_date, end_date)
    scope = (access.org_id, first, last, own_user(access, user_id), service_type)
    # One snapshot, so that the parts of one report add up.
    async with (
        services.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        by_service = await conn.fetch(USAGE["usage_by_service"], *scope)
        by_user = await conn.fetch(USAGE["usage_by_user"], *scope, ROWS_MAX)
        by_day = await conn.fetch(USAGE["usage_by_period"], *scope, "day")
        if group_by == "model":
            grouped = await conn.fetch(USAGE["usage_by_model"], *scope, ROWS_MAX)
        elif group_by in ("week", "month"):
            grouped = await conn.fetch(USAGE["usage_by_period"], *scope, group_by)
        else:
            grouped = {"service": by_service, "user": by_user, "day": by_day}.get(
                group_by or "", []
            )
        emails = await emails_of(conn, (row["name"] for row in by_user))
        as_of = await conn.fetchval(USAGE["settled_as_of"])
    used = sum(row["credits_used"] for row in by_service)
    return UsageReport(
        org_id=access.org_id,
        start_date=first,
        end_date=last,
        as_of=as_of,
        total_credits_used=credits_of(used),
        total_requests=sum(row["requests"] for row in by_service),
        breakdown_by_service={row["name"]: _service(row) for row in by_service},
        breakdown_by_user=[
            UserUsage(
                user_id=row["name"],
                user_email=emails.get(row["name"]),
                credits_used=credits_of(row["credits_used"]),
                requests=row["requests"],
                percentage=percentage(row["credits_used"], used),
            )
            for row in by_user
        ],
        breakdown_by_day=[
            DayUsage(
                date=row["period"],
                credits_used=credits_of(row["credits_used"]),
                requests=row["requests"],
            )
            for row in by_day
        ],
        group_by=group_by,
        groups=[_group(row) for row in grouped],
    )


def _range(start: date | None, end: date | None) -> tuple[date, date]:
    last = end or datetime.now(UTC).date()
    try:
        first = start or last - timedelta(days=DEFAULT_DAYS - 1)
    except OverflowError:
        raise ApiError(400, "end_date is too early", details={"field": "end_date"}) from None
    if first > last:
        raise ApiError(
            400, "start_date must not be after end_date", details={"field": "start_date"}
        )
    if (last - first).days >= RANGE_DAYS_MAX:
        raise ApiError(
            400,
            f"a report covers at most {RANGE_DAYS_MAX} days",
            details={"field": "start_date"},
        )
    return first, last


def _service(row: Record) -> ServiceUsage:
    used, requests = row["credits_used"], row["requests"]
    return ServiceUsage(
        credits_used=credits_of(used),
        requests=requests,
        avg_cost_per_request=round(credits_of(used) / requests, 6) if requests else 0.0,
    )


def _group(row: Record) -> GroupUsage:
    key = row["name"] if "name" in row else row["period"].isoformat()
    return GroupUsage(
        key=key, credits_used=credits_of(row["credits_used"]), requests=row["requests"]
    )
