"""Shows single charges, for whoever wants to know what a figure is made of."""

from __future__ import annotations

import csv
import io
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from asyncpg import Record
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from taximeter.api.billing.usage_reports import day_range
from taximeter.api.billing.views import FromBooks
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, ServicesDep, own_user
from taximeter.api.sql import REQUESTS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Day, ShortText, UserId
from taximeter.api.web.paging import LimitParam
from taximeter.meter.wire.credits import credits_of

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

CSV_ROWS_MAX = 10_000
COLUMNS = (
    "created_at",
    "user_id",
    "service_type",
    "service_name",
    "credits_used",
    "request_id",
    "reserved_credits",
    "late",
)
PRICE_COLUMNS = ("of", "source", "version", "dated", "age_days")
Cursor = Annotated[
    str | None,
    Query(max_length=128, description="The `next` of the page before; nothing for the first page"),
]
ServiceName = Annotated[ShortText | None, Query(description="Only this model or service")]
RequestIdParam = Annotated[ShortText | None, Query(description="Only this request")]


class PriceView(BaseModel):
    """The price that a charge was made by. `of`: the model that was meant, as host/region/name.
    `source` and `version`: which list. `dated`: the day of which its prices were, and `age_days`
    how old they were then; null where nobody says.
    """

    of: str | None
    source: str
    version: str
    dated: date | None
    age_days: int | None


class SettledRequest(BaseModel):
    """One charge. `reserved_credits` is the estimate that was held for it; `late` says that its
    hold had ended before it came; `price` is null for an amount that was not priced here.
    """

    id: str
    created_at: datetime
    user_id: str
    service_type: str
    service_name: str
    credits_used: float
    request_id: str | None
    reserved_credits: float
    late: bool
    price: PriceView | None = None
    metadata: dict[str, Any]


class RequestList(FromBooks):
    """A page of charges, newest first. `next` leads to the page after it; null is the last one."""

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
    cursor: Cursor = None,
) -> tuple[object, ...]:
    """What the query asks for: the parameters of `list_requests`, but for its limit."""
    first, before = _between(start_date, end_date)
    return (
        access.org_id,
        first,
        before,
        own_user(access, user_id),
        service_type,
        service_name,
        request_id,
        *_place(cursor),
    )


Chosen = Annotated[tuple[object, ...], Depends(_chosen)]


@router.get("/credits/{org_id}/requests", summary="Single charges")
async def list_requests(
    access: MemberDep, services: ServicesDep, chosen: Chosen, limit: LimitParam = 50
) -> RequestList:
    """Admins see everybody's, members their own. Every charge that was acknowledged before the
    question is included; `complete` and `as_of` say if that took too long.
    """
    books = await services.catch_up.of_org(access.org_id)
    rows = await services.pool.fetch(REQUESTS["list_requests"], *chosen, limit + 1)
    shown = rows[:limit]
    return RequestList(
        as_of=books.as_of,
        complete=books.complete,
        requests=[_view(row) for row in shown],
        next=_cursor(shown[-1]) if len(rows) > limit else None,
        limit=limit,
    )


@router.get(
    "/credits/{org_id}/requests.csv",
    summary="Single charges, as a table for a spreadsheet",
    response_class=Response,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_requests(access: MemberDep, services: ServicesDep, chosen: Chosen) -> Response:
    """The same, up to 10,000 rows at a time. The header `X-Next-Cursor` leads to the rows after
    them and is missing when there are none. Text that a spreadsheet would take for a formula
    begins with an apostrophe.
    """
    await services.catch_up.of_org(access.org_id)
    rows = await services.pool.fetch(REQUESTS["list_requests"], *chosen, CSV_ROWS_MAX + 1)
    shown = rows[:CSV_ROWS_MAX]
    headers = {"Content-Disposition": 'attachment; filename="requests.csv"'}
    if len(rows) > CSV_ROWS_MAX:
        headers["X-Next-Cursor"] = _cursor(shown[-1])
    return Response(_csv(shown), media_type="text/csv; charset=utf-8", headers=headers)


def _between(start: Day | None, end: Day | None) -> tuple[datetime, datetime]:
    first, last = day_range(start, end)
    try:
        midnight = datetime.combine(last + timedelta(days=1), time(), UTC)
    except OverflowError:
        raise ApiError(400, "end_date is too late", details={"field": "end_date"}) from None
    return datetime.combine(first, time(), UTC), midnight


def _cursor(row: Record) -> str:
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


def _view(row: Record) -> SettledRequest:
    metadata = json.loads(row["metadata"])
    metadata = metadata if isinstance(metadata, dict) else {"value": metadata}
    return SettledRequest(
        id=str(row["id"]),
        created_at=row["created_at"],
        user_id=row["user_id"],
        service_type=row["service_type"],
        service_name=row["service_name"],
        credits_used=credits_of(row["credits_used"]),
        request_id=row["request_id"],
        reserved_credits=credits_of(row["reserved"]),
        late=row["late"],
        price=_price(metadata, row["created_at"]),
        metadata=metadata,
    )


def _price(metadata: Mapping[str, Any], charged_at: datetime) -> PriceView | None:
    """What a charge says of its price; callers of the sidecar may have written anything there."""
    of, source, version = (metadata.get(f"price_{name}") for name in PRICE_COLUMNS[:3])
    if not isinstance(source, str) or not isinstance(version, str):
        return None
    try:
        dated = date.fromisoformat(str(metadata.get("price_dated")))
    except ValueError:
        dated = None
    return PriceView(
        of=of if isinstance(of, str) else None,
        source=source,
        version=version,
        dated=dated,
        age_days=None if dated is None else (charged_at.astimezone(UTC).date() - dated).days,
    )


def _csv(rows: Iterable[Record]) -> str:
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow([*COLUMNS, *(f"price_{name}" for name in PRICE_COLUMNS)])
    for row in rows:
        one = _view(row).model_dump(mode="json")
        price = one["price"] or {}
        cells = [one[name] for name in COLUMNS] + [price.get(name) for name in PRICE_COLUMNS]
        table.writerow(map(_cell, cells))
    return written.getvalue()


def _cell(value: object) -> object:
    """Names are chosen by callers, and a spreadsheet runs what begins with one of these."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
