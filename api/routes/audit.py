"""Shows who changed what in an organisation."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from taximeter.api.running.dependencies import OrgAdminDep, ServicesDep
from taximeter.api.sql import IDENTITY
from taximeter.api.web.json_numbers import UserId
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.meter.wire.credits import credits_of

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
    total: int
    limit: int
    offset: int


@router.get("/orgs/{org_id}/audit", summary="Audit log of an organization")
async def get_audit(
    access: OrgAdminDep,
    services: ServicesDep,
    action: Action = None,
    actor: Annotated[UserId | None, Query()] = None,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> AuditLog:
    """Who did what, when, with the state before and after. Nothing in it is ever changed or deleted
    by the system.
    """
    which = (access.org_id, action, actor)
    async with (
        services.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        total = await conn.fetchval(IDENTITY["count_audit"], *which)
        rows = await conn.fetch(IDENTITY["list_audit"], *which, limit, offset)
    return AuditLog(entries=[_entry(row) for row in rows], total=total, limit=limit, offset=offset)


def _entry(row: Record) -> AuditEntry:
    states = {
        name: row[name] and _in_credits(json.loads(row[name])) for name in ("before", "after")
    }
    return AuditEntry(**{**dict(row), **states})


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
