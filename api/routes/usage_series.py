"""Tells usage by period and by what it was for, as a picture of stacked bars needs it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.access.user_emails import emails_of
from taximeter.api.billing.usage_reports import (
    LEFT_OUT,
    Scope,
    by_name,
    day_range,
    names_of_keys,
)
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, ServicesDep, own_user
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import USAGE
from taximeter.api.web.json_numbers import Day, UserId
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

NAMED_MAX: Final = 12
Step = Literal["day", "week", "month"]
By = Literal["service", "model", "user", "key", "tag"]
Amounts = Iterable[tuple[date, str | None, int, int]]
"""Period, name (None for all others), requests, millicredits."""


class UsageSeriesOf(BaseModel):
    """One colour of the picture. `key` is null for all that are not among the 12 largest, and for
    what says no API key or tag where these are asked for. `credits` has a number for each of
    `periods`.
    """

    key: str | None
    user_email: str | None = None
    key_name: str | None = Field(default=None, description="What an API key is called")
    credits_used: float
    requests: int
    credits: list[float]


class UsageSeries(FromBooks):
    """Usage by period, both ends included, in UTC. `periods` are first days, the empty ones too;
    the first and the last may be cut by the range, and the last one may still go on.
    """

    org_id: str
    start_date: date
    end_date: date
    by: By
    step: Step
    periods: list[date]
    series: list[UsageSeriesOf]
    total_credits_used: float
    total_requests: int
    users_left_out: bool = Field(description=LEFT_OUT)


@router.get("/credits/{org_id}/usage/series", summary="Usage by period and what it was for")
async def get_usage_series(
    access: MemberDep,
    services: ServicesDep,
    reports: ReportsDep,
    start_date: Annotated[Day | None, Query()] = None,
    end_date: Annotated[Day | None, Query()] = None,
    user_id: Annotated[UserId | None, Query()] = None,
    by: Annotated[By, Query(description="What the parts of a period are")] = "service",
    step: Annotated[Step, Query(description="How long a period is")] = "day",
) -> UsageSeries:
    """The 12 largest by name and the others together, so that it adds up. Admins see everybody,
    members themselves. 400 for the keys or tags of a user with more than 10,000 requests in that
    time or with archived ones: these are read one by one.
    """
    first, last = day_range(start_date, end_date)
    user = own_user(access, user_id)
    org_id = access.org_id
    books = await services.catch_up.of_org(org_id)
    left_out = False
    emails: Mapping[str, str] = {}
    key_names: Mapping[str, str] = {}

    async def read(conn: Connection) -> list[tuple[date, str | None, int, int]]:
        nonlocal left_out, emails, key_names
        span = (org_id, first, last, step)
        if by == "user":
            scope = Scope(org_id, first, last, user)
            whole = [
                (row["period"], user, row["requests"], row["credits_used"])
                for row in await scope.by_period(conn, step)
            ]
            left_out = user is None and not await scope.has_few_users(conn)
            names = [user] if user is not None else []
            if user is None and not left_out:
                names = [row["name"] for row in await scope.by_user(conn, NAMED_MAX)]
            emails = await emails_of(conn, org_id, names)
            if user is not None:
                return whole
            rows = await conn.fetch(USAGE["periods_of_users"], *span, names)
            named = [tuple(row) for row in rows]
            return [*named, *_rest(whole, named)]
        if (by == "key" or by == "tag") and user is not None:
            labelled = await Scope(org_id, first, last, user).own_by_label(
                conn, step, by, "by", own_keys_only=not access.is_admin
            )
            largest = [row.name for row in by_name(labelled) if row.name is not None][:NAMED_MAX]
            if by == "key":
                key_names = await names_of_keys(conn, org_id, largest)
            of_largest = [row for row in labelled if row.name in largest]
            return [*of_largest, *_rest(labelled, of_largest)]
        if by == "key" or by == "tag":
            whole = [
                (row["period"], None, row["requests"], row["credits_used"])
                for row in await Scope(org_id, first, last).by_period(conn, step)
            ]
            rows = await conn.fetch(USAGE["label_series"], *span, by, NAMED_MAX)
            named = [tuple(row) for row in rows]
            if by == "key":
                key_names = await names_of_keys(conn, org_id, {name for _, name, *_ in named})
            return [*named, *_rest(whole, named)]
        if user is None:
            rows = await conn.fetch(USAGE["series"], *span, by, NAMED_MAX)
        else:
            rows = await conn.fetch(USAGE["own_series"], *span, by, NAMED_MAX, user)
        return [tuple(row) for row in rows]

    amounts = await reports.read(read)
    periods = list(periods_between(first, last, step))
    series = _series(amounts, periods, emails, key_names)
    return UsageSeries(
        as_of=books.as_of,
        complete=books.complete,
        org_id=org_id,
        start_date=first,
        end_date=last,
        by=by,
        step=step,
        periods=periods,
        series=series,
        total_credits_used=credits_of(sum(used for *_, used in amounts)),
        total_requests=sum(requests for _, _, requests, _ in amounts),
        users_left_out=left_out,
    )


def periods_between(first: date, last: date, step: Step) -> Iterator[date]:
    """The first days of all periods that have a day of the range: weeks begin on Monday."""
    day = first
    if step == "week":
        day -= timedelta(days=day.weekday())
    elif step == "month":
        day = day.replace(day=1)
    while day <= last:
        yield day
        if step == "month":
            day = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
        else:
            day += timedelta(days=7 if step == "week" else 1)


def _rest(whole: Amounts, named: Amounts) -> Amounts:
    """What is left of each period when those with a name are taken out."""
    requests: defaultdict[date, int] = defaultdict(int)
    used: defaultdict[date, int] = defaultdict(int)
    for sign, rows in ((1, whole), (-1, named)):
        for period, _, number, amount in rows:
            requests[period] += sign * number
            used[period] += sign * amount
    return [
        (period, None, requests[period], used[period]) for period in requests if requests[period]
    ]


def _series(
    amounts: Amounts,
    periods: list[date],
    emails: Mapping[str, str],
    key_names: Mapping[str, str],
) -> list[UsageSeriesOf]:
    place = {period: number for number, period in enumerate(periods)}
    used: dict[str | None, list[int]] = {}
    requests: defaultdict[str | None, int] = defaultdict(int)
    for period, name, number, amount in amounts:
        used.setdefault(name, [0] * len(periods))[place[period]] += amount
        requests[name] += number
    order = sorted(used, key=lambda name: (name is None, -sum(used[name]), name or ""))
    return [
        UsageSeriesOf(
            key=name,
            user_email=None if name is None else emails.get(name),
            key_name=None if name is None else key_names.get(name),
            credits_used=credits_of(sum(used[name])),
            requests=requests[name],
            credits=[credits_of(one) for one in used[name]],
        )
        for name in order
    ]
