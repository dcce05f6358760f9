"""Answers invitations: nobody becomes a member of an organisation without saying so."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from taximeter.api.billing.audit import write_audit
from taximeter.api.running.dependencies import CallerFirstRoute, PrincipalDep, ServicesDep
from taximeter.api.running.services import Services
from taximeter.api.sql import IDENTITY
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import OrgId
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.api.web.retries import again_when_undone

router = APIRouter(prefix="/api/v1/org-billing", tags=["members"], route_class=CallerFirstRoute)


class InvitationView(BaseModel):
    """An organisation that invites the caller, and what they would be in it."""

    org_id: str
    org_name: str
    role: str
    invited_at: datetime


class InvitationList(BaseModel):
    """A page of invitations, newest first."""

    invitations: list[InvitationView]
    total: int
    limit: int
    offset: int


class InvitationAnswered(BaseModel):
    """What became of an invitation: `active` is a member, `declined` is none, and `blocked` is one
    whom the organisation cannot invite again.
    """

    org_id: str
    role: str
    status: str


@router.get("/invitations", summary="Invitations of the caller")
async def list_invitations(
    principal: PrincipalDep, services: ServicesDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> InvitationList:
    """Organisations that want the caller to be a member, and show nothing of them until then."""
    async with services.pool.acquire() as conn:
        rows = await conn.fetch(IDENTITY["list_invitations"], principal.user_id, limit, offset)
        total = await conn.fetchval(IDENTITY["count_invitations"], principal.user_id)
    return InvitationList(
        invitations=[
            InvitationView(
                org_id=row["org_id"],
                org_name=row["org_name"],
                role=row["role"],
                invited_at=row["created_at"],
            )
            for row in rows
        ],
        total=total,
        limit=limit,
        offset=offset,
    )


@router.post("/invitations/{org_id}/accept", summary="Accept an invitation")
async def accept_invitation(
    org_id: Annotated[OrgId, Path()], principal: PrincipalDep, services: ServicesDep
) -> InvitationAnswered:
    """The caller is a member from now on. 404 without an invitation of this organisation."""
    return await _answer(services, org_id, principal.user_id, "active")


@router.delete("/invitations/{org_id}", summary="Decline an invitation")
async def decline_invitation(
    org_id: Annotated[OrgId, Path()],
    principal: PrincipalDep,
    services: ServicesDep,
    block: Annotated[
        bool, Query(description="Whether the organization cannot invite the caller again")
    ] = False,
) -> InvitationAnswered:
    """The invitation is gone, and with `block` the organisation cannot send another one. Declining
    without it later ends the block. 404 without an invitation or a block of this organisation.
    """
    status: Literal["declined", "blocked"] = "blocked" if block else "declined"
    return await _answer(services, org_id, principal.user_id, status)


@again_when_undone
async def _answer(
    services: Services, org_id: str, user_id: str, status: Literal["active", "declined", "blocked"]
) -> InvitationAnswered:
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(IDENTITY["lock_organization"], org_id)
        row = await conn.fetchrow(IDENTITY["answer_invitation"], org_id, user_id, status)
        if row is None:
            raise ApiError(404, "You have no invitation of this organization")
        await write_audit(
            conn,
            actor=user_id,
            action=f"org.invitation.{'accepted' if status == 'active' else status}",
            org_id=org_id,
            target=user_id,
            before={"status": "invited", "role": row["role"]},
            after={"status": row["status"], "role": row["role"]},
        )
    services.memberships.forget(user_id)
    return InvitationAnswered(org_id=org_id, role=row["role"], status=row["status"])
