"""Sets when an allocation ends, and whether it is renewed then."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import asyncpg
from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, StrictBool, model_validator

from taximeter.api.billing.audit import write_audit
from taximeter.api.billing.views import AllocationView, allocation_view
from taximeter.api.running.dependencies import CallerFirstRoute, OrgAdminDep, ServicesDep
from taximeter.api.sql import CORRECTIONS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Body, Time, UserId, in_the_future
from taximeter.api.web.retries import again_when_undone

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class Terms(Body):
    """What changes; what is left out stays. `expires_at: null` takes the end away."""

    expires_at: Annotated[Time, AfterValidator(in_the_future)] | None = None
    auto_renew: StrictBool | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Terms:
        if not self.model_fields_set:
            raise ValueError("must name expires_at, auto_renew or both")
        if self.auto_renew and "expires_at" in self.model_fields_set and self.expires_at is None:
            raise ValueError("auto_renew: what never ends is not renewed")
        return self


class TermsChanged(BaseModel):
    """The allocation as it is now."""

    allocation: AllocationView


@router.patch(
    "/credits/{org_id}/allocations/{user_id:path}", summary="Change when an allocation ends"
)
@again_when_undone
async def change_terms(
    user_id: Annotated[UserId, Path()], body: Terms, access: OrgAdminDep, services: ServicesDep
) -> TermsChanged:
    """Sets another end, or none, and whether it is renewed then. Its credits stay what they are.
    404 without an active allocation, 409 for one that would be renewed and has no end.
    """
    org_id = access.org_id
    async with services.pool.acquire() as conn, conn.transaction():
        try:
            row = await conn.fetchrow(
                CORRECTIONS["change_terms"],
                org_id,
                user_id,
                "expires_at" in body.model_fields_set,
                body.expires_at,
                # Nothing is left to renew when the end is taken away.
                False if _ends_no_more(body) else body.auto_renew,
            )
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "renewal_needs_an_end":
                raise
            raise ApiError.of("no_expiry", details={"field": "auto_renew"}) from error
        if row is None:
            raise ApiError(
                404,
                "The user has no active allocation in this organization",
                details={"field": "user_id"},
            )
        await write_audit(
            conn,
            actor=access.user_id,
            action="user.allocation.terms_changed",
            org_id=org_id,
            target=user_id,
            before=_terms(row["expires_before"], row["auto_renew_before"]),
            after=_terms(row["expires_at"], row["auto_renew"]),
        )
    return TermsChanged(allocation=await services.live.made_live(org_id, allocation_view(row)))


def _ends_no_more(body: Terms) -> bool:
    return "expires_at" in body.model_fields_set and body.expires_at is None


def _terms(expires_at: datetime | None, auto_renew: bool) -> dict[str, object]:
    return {"expires_at": expires_at, "auto_renew": auto_renew}
