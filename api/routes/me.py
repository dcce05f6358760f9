"""Says who the caller is."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from taximeter.api.running.dependencies import CallerFirstRoute, PrincipalDep, ServicesDep
from taximeter.api.sql import USERS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Body, OrgId

router = APIRouter(tags=["session"], route_class=CallerFirstRoute)


class OrganizationOfUser(BaseModel):
    """An organisation, and what the caller is in it."""

    org_id: str
    org_name: str
    role: str
    personal: bool
    is_default: bool


class CurrentUser(BaseModel):
    """The caller. The first organisation pays for requests that name none: the default, else the
    oldest membership that has an allocation; the personal one comes last.
    """

    user_id: str
    email: str | None
    name: str | None
    is_system_admin: bool
    organizations: list[OrganizationOfUser]


class DefaultOrganization(Body):
    """Which organisation pays for requests that name none; null is the oldest membership."""

    org_id: OrgId | None


@router.get("/api/v1/auth/user", summary="Who am I")
async def get_current_user(principal: PrincipalDep, services: ServicesDep) -> CurrentUser:
    """The session's user, with active memberships in the order in which they are asked to pay."""
    memberships = await services.memberships.of(principal.user_id)
    return CurrentUser(
        user_id=principal.user_id,
        email=principal.email,
        name=principal.name,
        is_system_admin=principal.is_system_admin,
        organizations=[
            OrganizationOfUser(
                org_id=one.org_id,
                org_name=one.org_name,
                role=one.role,
                personal=one.personal,
                is_default=one.is_default,
            )
            for one in memberships
        ],
    )


@router.put("/api/v1/auth/user/default-organization", summary="Choose who pays by default")
async def choose_default_organization(
    body: DefaultOrganization, principal: PrincipalDep, services: ServicesDep
) -> CurrentUser:
    """Stored for the user. The header `X-Org-Id` of a request still comes first, and a membership
    that ends takes the choice with it. 404 for an organisation that the caller is no member of.
    """
    user_id = principal.user_id
    services.memberships.forget(user_id)
    if body.org_id is not None:
        memberships = await services.memberships.of(user_id)
        if all(one.org_id != body.org_id for one in memberships):
            raise ApiError(404, "Organization not found", details={"field": "org_id"})
    await services.pool.execute(USERS["choose_default"], user_id, body.org_id)
    services.memberships.forget(user_id)
    return await get_current_user(principal, services)
