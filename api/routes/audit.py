"""Shows who changed what in an organisation."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.running.dependencies import OrgAdminDep, SystemAdminDep
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import IDENTITY
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Day, OrgId, UserId
from taximeter.api.web.paging import (
    COUNTED_MAX,
    NEXT,
    TOTAL,
    CursorParam,
    LimitParam,
    OffsetParam,
    cursor_of,
    read_cursor,
    total_of,
)
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["audit"])

Action = Annotated[
    str | None,
    Query(
        pattern=r"^[a-z_]+(\.[a-z_]+)*$",
        max_length=64,
        description="Only this action, such as org.credits.purchased",
    ),
]


class AuditEntry(BaseModel):
    """One change. What is called credits in `before` and `after` is credits."""

    id: int
    at: datetime
    actor: str = Field(description="The user, or the part of the system that did it by itself")
    action: str
    target: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None = Field(description="As the answer's header X-Request-Id said")


class AuditLog(BaseModel):
    """A page of the log, newest first."""

    entries: list[AuditEntry]
    total: int | None = Field(description=TOTAL)
    limit: int
    offset: int


class SystemAuditEntry(AuditEntry):
    """One change, of an organisation or, where `org_id` is null, of the installation."""

    org_id: str | None


class SystemAuditLog(BaseModel):
    """A page of the log of everything, newest first."""

    entries: list[SystemAuditEntry]
    limit: int
    next: str | None = Field(description=NEXT)


@router.get("/orgs/{org_id}/audit", summary="Audit log of an organization")
async def get_audit(
    access: OrgAdminDep,
    reports: ReportsDep,
    action: Action = None,
    actor: Annotated[UserId | None, Query()] = None,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> AuditLog:
    """Who did what, when, with the state before and after. Nothing in it is ever changed or deleted
    by the system.
    """
    which = (access.org_id, action, actor)

    async def page(conn: Connection) -> tuple[list[Record], int]:
        rows = await conn.fetch(IDENTITY["list_audit"], *which, limit, offset)
        return rows, await conn.fetchval(IDENTITY["count_audit"], *which, COUNTED_MAX + 1)

    rows, counted = await reports.read(page)
    entries = [_entry(row) for row in rows]
    return AuditLog(entries=entries, total=total_of(counted), limit=limit, offset=offset)


@router.get("/system/audit", summary="Audit log of everything")
async def get_system_audit(
    admin: SystemAdminDep,
    reports: ReportsDep,
    start_date: Annotated[Day | None, Query(description="First day, in UTC")] = None,
    end_date: Annotated[Day | None, Query(description="Last day, in UTC")] = None,
    org_id: Annotated[OrgId | None, Query(description="Only this organization")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> SystemAuditLog:
    """Who did what in any organisation or to the installation, when, with the state before and
    after. An organisation's own log can be searched by action and actor.
    """
    first = datetime.combine(start_date or date(1970, 1, 1), time(), UTC)
    before = datetime.combine(end_date or date(9999, 12, 30), time(), UTC) + timedelta(days=1)
    last_at, last_id = read_cursor(cursor, datetime, str)
    if last_id is not None and not (last_id.isascii() and last_id.isdigit() and len(last_id) < 19):
        raise ApiError(400, "cursor must be the `next` of a page", details={"field": "cursor"})
    place = (last_at, None if last_id is None else int(last_id))

    async def page(conn: Connection) -> list[Record]:
        which = (first, before, *place, limit + 1)
        if org_id is None:
            return await conn.fetch(IDENTITY["list_audit_of_all"], *which)
        return await conn.fetch(IDENTITY["list_audit_of_one"], *which, org_id)

    rows = await reports.read(page)
    entries = [SystemAuditEntry(**_fields(row)) for row in rows[:limit]]
    more = cursor_of(entries[-1].at.isoformat(), entries[-1].id) if len(rows) > limit else None
    return SystemAuditLog(entries=entries, limit=limit, next=more)


def _entry(row: Record) -> AuditEntry:
    return AuditEntry(**_fields(row))


def _fields(row: Record) -> dict[str, Any]:
    states = {
        name: row[name] and _in_credits(json.loads(row[name])) for name in ("before", "after")
    }
    return {**dict(row), **states}


def _in_credits(state: Any) -> Any:
    """The log keeps millicredits under the names of the tables' columns, as SQL writes it too; an
    answer that says credits means credits.
    """
    if not isinstance(state, dict):
        return state
    return {
        name: credits_of(value) if name.endswith("_credits") and type(value) is int else value
        for name, value in state.items()
    }
