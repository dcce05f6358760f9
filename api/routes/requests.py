"""Shows single charges, for whoever wants to know what a figure is made of."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from taximeter.api.billing.charges import Charge, Chosen, SettledRequest, csv_of, view_of
from taximeter.api.billing.usage_reports import day_range
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, ServicesDep, own_user
from taximeter.api.running.reports import AnswerFromReports, ReportsDep
from taximeter.api.running.services import Services
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Day, ShortText, UserId
from taximeter.api.web.paging import LimitParam
from taximeter.meter.wire.credits import exact_millicredits
from taximeter.settler.archive.places import ArchiveError

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

CSV_ROWS_MAX = 10_000
Cursor = Annotated[
    str | None,
    Query(max_length=128, description="The `next` of the page before; nothing for the first page"),
]
ServiceName = Annotated[ShortText | None, Query(description="Only this model or service")]
Late = Annotated[
    bool | None,
    Query(description="Only those whose hold had ended before they came, or the others"),
]
Amount = Annotated[
    float | None,
    Query(ge=0, le=1_000_000_000, allow_inf_nan=False, description="A bound of what it cost"),
]
RequestIdParam = Annotated[ShortText | None, Query(description="Only this request")]


class RequestList(FromBooks):
    """A page of charges, newest first. `next` leads to the page after it; null is the last one. A
    page looks at 10,000 charges at most: narrowed to a service, a model, late ones or an amount, it
    may have fewer than `limit`, also none, while `next` leads on.
    """

    requests: list[SettledRequest]
    next: str | None = Field(description="Hand it over as `cursor` for the next page")
    limit: int


async def _chosen(
    access: MemberDep,
    start_date: Annotated[Day | None, Query()] = None,
    end_date: Annotated[Day | None, Query()] = None,
    user_id: Annotated[UserId | None, Query()] = None,
    service_type: Annotated[ShortText | None, Query()] = None,
    service_name: ServiceName = None,
    request_id: RequestIdParam = None,
    late: Late = None,
    credits_min: Amount = None,
    credits_max: Amount = None,
    cursor: Cursor = None,
) -> Chosen:
    """What the query asks for."""
    first, before = _between(start_date, end_date)
    return Chosen(
        access.org_id,
        first,
        before,
        own_user(access, user_id),
        service_type,
        service_name,
        request_id,
        *_place(cursor),
        late,
        _millicredits("credits_min", credits_min),
        _millicredits("credits_max", credits_max),
    )


ChosenDep = Annotated[Chosen, Depends(_chosen)]


@router.get("/credits/{org_id}/requests", summary="Single charges")
async def list_requests(
    access: MemberDep,
    services: ServicesDep,
    reports: ReportsDep,
    chosen: ChosenDep,
    limit: LimitParam = 50,
) -> RequestList:
    """Admins see everybody's, members their own. Every charge that was acknowledged before the
    question is included; `complete` and `as_of` say if that took too long.
    """
    books = await services.catch_up.of_org(access.org_id)
    rows, end = await _bounded_page(services, reports, chosen, limit + 1)
    shown = rows[:limit]
    last = shown[-1] if len(rows) > limit else end
    return RequestList(
        as_of=books.as_of,
        complete=books.complete,
        requests=[view_of(row) for row in shown],
        next=None if last is None else _cursor(last),
        limit=limit,
    )


@router.get(
    "/credits/{org_id}/requests.csv",
    summary="Single charges, as a table for a spreadsheet",
    response_class=Response,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_requests(
    access: MemberDep, services: ServicesDep, reports: ReportsDep, chosen: ChosenDep
) -> Response:
    """The same, up to 10,000 rows at a time. The header `X-Next-Cursor` leads to the rows after
    them and is missing when there are none. Text that a spreadsheet would take for a formula
    begins with an apostrophe.
    """
    await services.catch_up.of_org(access.org_id)
    rows = await _page(services, reports, chosen, CSV_ROWS_MAX + 1)
    shown = rows[:CSV_ROWS_MAX]
    headers = {"Content-Disposition": 'attachment; filename="requests.csv"', **reports.headers}
    if len(rows) > CSV_ROWS_MAX:
        headers["X-Next-Cursor"] = _cursor(shown[-1])
    return Response(csv_of(shown), media_type="text/csv; charset=utf-8", headers=headers)


async def _page(
    services: Services, reports: AnswerFromReports, chosen: Chosen, limit: int
) -> Sequence[Charge]:
    try:
        return await services.charges.page(reports.read, chosen, limit)
    except ArchiveError as error:
        raise ApiError.of("archive_away", why=error) from error


async def _bounded_page(
    services: Services, reports: AnswerFromReports, chosen: Chosen, limit: int
) -> tuple[Sequence[Charge], Charge | None]:
    try:
        return await services.charges.bounded_page(reports.read, chosen, limit)
    except ArchiveError as error:
        raise ApiError.of("archive_away", why=error) from error


def _millicredits(field: str, credits: float | None) -> int | None:
    """Raises ApiError 400 for more than three decimals."""
    if credits is None:
        return None
    exact = exact_millicredits(Decimal(repr(credits)))
    if exact is None:
        raise ApiError(400, f"{field} must have at most 3 decimals", details={"field": field})
    return exact


def _between(start: Day | None, end: Day | None) -> tuple[datetime, datetime]:
    first, last = day_range(start, end)
    try:
        midnight = datetime.combine(last + timedelta(days=1), time(), UTC)
    except OverflowError:
        raise ApiError(400, "end_date is too late", details={"field": "end_date"}) from None
    return datetime.combine(first, time(), UTC), midnight


def _cursor(row: Charge) -> str:
    text = f"{row['created_at'].timestamp():.6f} {row['id']}"
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str | None) -> tuple[datetime | None, int | None]:
    """Where the page begins. Raises ApiError 400 for what no page has answered."""
    if cursor is None:
        return None, None
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        at, row_id = text.split(" ")
        seconds, micros = at.split(".")
        moment = datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))
        number = int(row_id)
        if not 0 <= number < 2**63:
            raise ValueError
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError(
            400, "cursor must be the `next` of a page", details={"field": "cursor"}
        ) from error
    return moment, number
