"""Reports usage of an organisation or of one of its users."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.access.user_emails import emails_of
from taximeter.api.billing.usage_reports import (
    LABELS,
    LEFT_OUT,
    Scope,
    by_name,
    day_range,
    names_of_keys,
)
from taximeter.api.billing.views import FromBooks, percentage
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, ServicesDep, own_user
from taximeter.api.running.reports import ReportsDep
from taximeter.api.web.json_numbers import Day, ShortText, UserId
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

ROWS_MAX = 1000

GroupBy = Literal["user", "service", "model", "key", "tag", "day", "week", "month"]


_Row = Record | Mapping[str, Any]


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
    """Usage of one group of what `group_by` asked for: a user, a service, a model, an API key, a
    tag, or the first day of a period.
    """

    key: str = Field(
        description="Empty for what says no API key, or no tag, and for all beyond a thousand of "
        "them. What members used with keys that are not theirs is told to them as without a key"
    )
    key_name: str | None = Field(default=None, description="What an API key is called")
    credits_used: float
    requests: int
    avg_cost_per_request: float


class UsageReport(FromBooks):
    """Usage of a range of days, both ends included, in UTC."""

    org_id: str
    start_date: date
    end_date: date
    total_credits_used: float
    total_requests: int
    avg_cost_per_request: float
    breakdown_by_service: dict[str, ServiceUsage]
    breakdown_by_user: list[UserUsage]
    breakdown_by_user_left_out: bool = Field(
        description=f"{LEFT_OUT}; `group_by=user` adds it up, which takes as long as it takes"
    )
    breakdown_by_day: list[DayUsage]
    group_by: GroupBy | None = None
    groups: list[GroupUsage] = Field(default_factory=list)


class _Found(NamedTuple):
    by_service: list[Record]
    by_user: list[Record]
    by_day: list[Record]
    by_group: list[_Row]
    left_out: bool
    emails: Mapping[str, str]
    key_names: Mapping[str, str]


@router.get("/credits/{org_id}/usage", summary="What credits were used for")
async def get_usage(
    access: MemberDep,
    services: ServicesDep,
    reports: ReportsDep,
    start_date: Annotated[Day | None, Query()] = None,
    end_date: Annotated[Day | None, Query()] = None,
    user_id: Annotated[UserId | None, Query()] = None,
    service_type: Annotated[ShortText | None, Query()] = None,
    group_by: Annotated[GroupBy | None, Query()] = None,
) -> UsageReport:
    """Admins see everybody, members themselves. Lists of users and models have the 1000 largest.
    400 for the keys or tags of one service, and for those of a user with more than 10,000 requests
    in that time or with archived ones: these are read one by one.

    Every charge that was acknowledged before the question is included; `complete` and `as_of` say
    if that took too long.
    """
    first, last = day_range(start_date, end_date)
    user_id = own_user(access, user_id)
    scope = Scope(access.org_id, first, last, user_id, service_type)
    if group_by == "key" or group_by == "tag":
        scope.no_parts(group_by, "group_by")
    books = await services.catch_up.of_org(access.org_id)

    async def report(conn: Connection) -> _Found:
        left_out = user_id is None and group_by != "user" and not await scope.has_few_users(conn)
        by_user = []
        if user_id is None and not left_out:
            by_user = await scope.by_user(conn, ROWS_MAX)
        by_group: list[_Row] = []
        key_names: Mapping[str, str] = {}
        if group_by == "model":
            by_group = [*await scope.by_model(conn, ROWS_MAX)]
        elif group_by == "week" or group_by == "month":
            by_group = [*await scope.by_period(conn, group_by)]
        elif group_by == "key" or group_by == "tag":
            if user_id is None:
                by_group = [*await scope.by_label(conn, group_by, ROWS_MAX)]
            else:
                labelled = await scope.own_by_label(
                    conn, "day", group_by, "group_by", own_keys_only=not access.is_admin
                )
                by_group = [row._asdict() for row in by_name(labelled) if row.name is not None]
            by_group = by_group[:ROWS_MAX]
            if group_by == "key":
                names = (row["name"] for row in by_group)
                key_names = await names_of_keys(conn, access.org_id, names)
        shown = [row["name"] for row in by_user] if user_id is None else [user_id]
        return _Found(
            by_service=await scope.by_service(conn),
            by_user=by_user,
            by_day=await scope.by_period(conn, "day"),
            by_group=by_group,
            left_out=left_out,
            emails=await emails_of(conn, access.org_id, shown),
            key_names=key_names,
        )

    # One snapshot, so that the parts of one report add up.
    by_service, by_user, by_day, by_group, left_out, emails, key_names = await reports.read(report)
    used = sum(row["credits_used"] for row in by_service)
    requests = sum(row["requests"] for row in by_service)
    if user_id is not None:
        users = [_user(user_id, used, requests, used, emails)] if requests else []
    else:
        users = [
            _user(row["name"], row["credits_used"], row["requests"], used, emails)
            for row in by_user
        ]
    days = [
        DayUsage(
            date=row["period"],
            credits_used=credits_of(row["credits_used"]),
            requests=row["requests"],
        )
        for row in by_day
    ]
    services_used = {row["name"]: _service(row) for row in by_service}
    return UsageReport(
        as_of=books.as_of,
        complete=books.complete,
        org_id=access.org_id,
        start_date=first,
        end_date=last,
        total_credits_used=credits_of(used),
        total_requests=requests,
        avg_cost_per_request=average(used, requests),
        breakdown_by_service=services_used,
        breakdown_by_user=users,
        breakdown_by_user_left_out=left_out,
        breakdown_by_day=days,
        group_by=group_by,
        groups=_groups(group_by, services_used, users, days, by_group)
        if group_by not in LABELS
        else _labelled(by_group, key_names, used, requests),
    )


def average(millicredits: int, requests: int) -> float:
    """Credits a request cost on average, to six decimals; 0 without requests."""
    return round(credits_of(millicredits) / requests, 6) if requests else 0.0


def _service(row: Record) -> ServiceUsage:
    used, requests = row["credits_used"], row["requests"]
    return ServiceUsage(
        credits_used=credits_of(used),
        requests=requests,
        avg_cost_per_request=average(used, requests),
    )


def _user(
    user_id: str, used: int, requests: int, whole: int, emails: Mapping[str, str]
) -> UserUsage:
    return UserUsage(
        user_id=user_id,
        user_email=emails.get(user_id),
        credits_used=credits_of(used),
        requests=requests,
        percentage=percentage(used, whole),
    )


def _groups(
    group_by: GroupBy | None,
    services_used: dict[str, ServiceUsage],
    users: list[UserUsage],
    days: list[DayUsage],
    rows: list[_Row],
) -> list[GroupUsage]:
    """The groups that were asked for; three kinds are in the report anyway."""
    if group_by == "service":
        return [
            _group(name, service.credits_used, service.requests)
            for name, service in services_used.items()
        ]
    if group_by == "user":
        return [_group(user.user_id, user.credits_used, user.requests) for user in users]
    if group_by == "day":
        return [_group(day.date.isoformat(), day.credits_used, day.requests) for day in days]
    return [
        _group(
            row["name"] if group_by == "model" else row["period"].isoformat(),
            credits_of(row["credits_used"]),
            row["requests"],
        )
        for row in rows
    ]


def _labelled(
    rows: list[_Row], key_names: Mapping[str, str], used: int, requests: int
) -> list[GroupUsage]:
    """Usage by label, and what has none: the groups add up to the whole."""
    groups = [
        _group(row["name"], credits_of(row["credits_used"]), row["requests"]).model_copy(
            update={"key_name": key_names.get(row["name"])}
        )
        for row in rows
    ]
    without = requests - sum(row["requests"] for row in rows)
    if without:
        rest = used - sum(row["credits_used"] for row in rows)
        groups.append(_group("", credits_of(rest), without))
    return groups


def _group(key: str, credits_used: float, requests: int) -> GroupUsage:
    return GroupUsage(
        key=key,
        credits_used=credits_used,
        requests=requests,
        avg_cost_per_request=round(credits_used / requests, 6) if requests else 0.0,
    )
