"""Streams exports of an organisation, or of all of them, as CSV or Parquet."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from taximeter.api.billing.exported import Asked, export
from taximeter.api.billing.usage_reports import day_range
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    OrgAdminDep,
    ServicesDep,
    SystemAdminDep,
)
from taximeter.api.running.services import Services
from taximeter.api.web.errors import ApiError
from taximeter.api.web.fair_shares import Share
from taximeter.api.web.json_numbers import Day
from taximeter.meter.wire.refusals import RETRY_AFTER_S
from taximeter.settler.archive.places import ArchiveError
from taximeter.settler.exports.by_itself import terms_of
from taximeter.settler.exports.formats import MissingPackage, make_writer
from taximeter.settler.exports.kinds import KINDS, FormatName, KindName
from taximeter.settler.settling.read_your_writes import AsOf

logger = logging.getLogger("taximeter.api")
router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

_MEDIA: Final = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The whole export. One that ends early has failed: the connection is closed "
        "before the last chunk.",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
KindParam = Annotated[KindName, Path(description="What: see docs/exports.md for the columns")]
FormatParam = Annotated[FormatName, Query(description="As what")]
FirstDay = Annotated[Day | None, Query(description="First day, in UTC; 30 days by default")]
LastDay = Annotated[Day | None, Query(description="Last day, included; by default today")]


@router.get(
    "/orgs/{org_id}/exports/{kind}",
    summary="Export of an organization, as CSV or Parquet",
    response_class=Response,
    responses=_ANSWERS,
)
async def export_organization(
    access: OrgAdminDep,
    services: ServicesDep,
    kind: KindParam,
    format: FormatParam = "csv",
    start_date: FirstDay = None,
    end_date: LastDay = None,
) -> Response:
    """All rows of at most 366 days, however many. Every charge that was acknowledged before the
    question is included; where some of them are not booked yet, a range with today is refused (503)
    and can be asked for again. Text that a spreadsheet would take for a formula begins with an
    apostrophe in CSV.
    """
    asked = Asked(kind, *_range(start_date, end_date), access.org_id)
    return await _answer(
        services, asked, format, access.user_id, await services.catch_up.of_org(access.org_id)
    )


@router.get(
    "/system/exports/{kind}",
    summary="Export of all organizations, as CSV or Parquet",
    response_class=Response,
    responses=_ANSWERS,
)
async def export_system(
    principal: SystemAdminDep,
    services: ServicesDep,
    kind: KindParam,
    format: FormatParam = "csv",
    start_date: FirstDay = None,
    end_date: LastDay = None,
) -> Response:
    """The same of every organization, one after the other. The daily exports of the settler are
    cheaper, and have the acts of no organization as well.
    """
    asked = Asked(kind, *_range(start_date, end_date))
    return await _answer(
        services, asked, format, principal.user_id, await services.catch_up.of_all()
    )


def _range(start: dt.date | None, end: dt.date | None) -> tuple[dt.date, dt.date]:
    first, last = day_range(start, end)
    if last == dt.date.max:
        raise ApiError(400, "end_date is too late", details={"field": "end_date"})
    return first, last


async def _answer(
    services: Services, asked: Asked, form: FormatName, user_id: str, books: AsOf
) -> Response:
    """The answer, once its first piece is there: until then whatever fails is a refusal."""
    if not books.complete and (
        books.as_of is None or asked.last >= books.as_of.astimezone(dt.UTC).date()
    ):
        raise ApiError(
            503,
            "Charges of these days are not all booked yet: ask again, or for days before today",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    terms = terms_of(services.settings)
    if asked.kind == "focus" and terms.credit_price is None:
        raise ApiError(
            400,
            "kind: focus needs the price of a credit, which the operator has not set"
            " (TAXIMETER_EXPORT_CREDIT_PRICE)",
            details={"field": "kind"},
        )
    try:
        # The first time loads pyarrow, for a second.
        writer = await asyncio.to_thread(make_writer, KINDS[asked.kind], form)
    except MissingPackage as error:
        raise ApiError(400, f"format: {error}", details={"field": "format"}) from error

    async def read(work: Any) -> Any:
        return (await services.reports.read(work))[0]

    share = services.exports.take(asked.org_id or "", user_id, 1)
    pieces = export(asked, writer, read, services.charges, terms)
    try:
        begun = await anext(pieces)
    except BaseException as error:
        share.give_back()
        if isinstance(error, ArchiveError):
            raise ApiError.of("archive_away", why=error) from error
        raise
    name = f"{asked.kind}-{asked.first}-{asked.last}.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return ExportResponse(_all(begun, pieces), share, media_type=_MEDIA[form], headers=headers)


async def _all(begun: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begun
    async for piece in rest:
        yield piece


class ExportResponse(StreamingResponse):
    """An answer that is only ended when it is whole: what fails in the middle closes the connection
    without the last chunk, so that every client of HTTP/1.1 knows. Gives its share back.
    """

    def __init__(self, pieces: AsyncIterator[bytes], share: Share, **options: Any) -> None:
        super().__init__(pieces, **options)
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Exception as error:
            # Returning without an end makes the server close the connection.
            logger.error("an export was broken off: %s", scope["path"], exc_info=error)
        finally:
            self._share.give_back()
