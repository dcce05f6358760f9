"""Who the caller is."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from taximeter.api.deps import PrincipalDep, ServicesDep

router = APIRouter(tags=["session"])


class OrganizationOfUser(BaseModel):
    """An organisation, and what the caller is in it."""

    org_id: str
    org_name: str
    role: str


class CurrentUser(BaseModel):
    """The caller. The first organisation pays for requests that name none."""

    user_id: str
    email: str | None
    name: str | None
    is_system_admin: bool
    organizations: list[OrganizationOfUser]


@router.get("/api/v1/auth/user", summary="Who am I")
async def get_current_user(principal: PrincipalDep, services: ServicesDep) -> CurrentUser:
    """The session's user, with active memberships, oldest first."""
    memberships = await services.memberships.of(principal.user_id)
    return CurrentUser(
        user_id=principal.user_id,
        email=principal.email,
        name=principal.name,
        is_system_admin=principal.is_system_admin,
        organizations=[
            OrganizationOfUser(org_id=one.org_id, org_name=one.org_name, role=one.role)
            for one in memberships
        ],
    )
