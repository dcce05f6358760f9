"""Lists, shows, renames, suspends and deletes organisations."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final, Literal

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field, StrictBool, model_validator

from taximeter.api.billing.audit import write_audit
from taximeter.api.billing.leaving import KeyNamed, end_all_keys
from taximeter.api.billing.views import PoolView, pool_view
from taximeter.api.running.dependencies import (
    Access,
    CallerFirstRoute,
    MemberDep,
    OrgAdminDep,
    ServicesDep,
    SystemAdminDep,
)
from taximeter.api.sql import KEYS, ORGANIZATIONS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Body, ShortText, check_email
from taximeter.api.web.paging import LimitParam, OffsetParam, like_pattern
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection
from taximeter.settler.moves.closing import end_accounts

ENDED_AT_ONCE: Final = 10
"""Batches of members and allocations that end before a deletion is answered."""

router = APIRouter(
    prefix="/api/v1/org-billing", tags=["organizations"], route_class=CallerFirstRoute
)

State = Literal["active", "suspended", "deleted"]


class OrganizationView(BaseModel):
    """An organisation. Who is no admin of it does not see its billing address."""

    org_id: str
    org_name: str
    slug: str
    state: State
    personal: bool = Field(description="One that holds a user's individual credits")
    billing_email: str | None
    created_by: str
    created_at: datetime
    suspended_at: datetime | None
    deleted_at: datetime | None


class OrganizationLine(OrganizationView):
    """An organisation of the list, with its plan and its pool, as settled."""

    plan_code: str | None
    subscription_status: str | None
    credit_pool: PoolView


class OrganizationList(BaseModel):
    """A page of organisations."""

    organizations: list[OrganizationLine]
    total: int
    limit: int
    offset: int


class OrganizationChange(Body):
    """What changes; what is left out stays."""

    org_name: ShortText | None = None
    billing_email: Annotated[ShortText, AfterValidator(check_email)] | None = None

    @model_validator(mode="after")
    def _names_something(self) -> OrganizationChange:
        if self.org_name is None and self.billing_email is None:
            raise ValueError("must name org_name, billing_email or both")
        return self


class Deletion(Body):
    """Why, and the organisation's id once more, since there is no way back."""

    reason: ShortText
    confirm_org_id: str = Field(description="The organisation's id, typed once more")


class Suspension(Body):
    """Whether it is suspended, and why."""

    suspended: StrictBool
    reason: ShortText


class OrganizationDeleted(BaseModel):
    """What has ended. `closing_allocations` return what is left as soon as it is free."""

    organization: OrganizationView
    closing_allocations: int
    keys_ended: list[KeyNamed]


class SuspensionSet(OrganizationView):
    """The organisation, and how many of its API keys open nothing until that is lifted."""

    keys_stopped: int


@router.get("/orgs", summary="All organizations")
async def list_organizations(
    admin: SystemAdminDep,
    services: ServicesDep,
    search: Annotated[
        ShortText | None, Query(description="A part of the id, name, slug or billing address")
    ] = None,
    state: Annotated[State | None, Query(description="Only those in this state")] = None,
    plan_code: Annotated[ShortText | None, Query(description="Only those with this plan")] = None,
    personal: Annotated[bool, Query(description="Also those of individual credits")] = False,
    sort: Annotated[
        Literal["created_at", "name", "total_credits", "available_credits", "used_credits"],
        Query(description="What the list is ordered by"),
    ] = "created_at",
    order: Annotated[Literal["asc", "desc"], Query(description="In which direction")] = "desc",
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> OrganizationList:
    """Searched, filtered and sorted, a page at a time, with plan and pool. For system admins."""
    which = (like_pattern(search), state, plan_code, personal)
    async with services.pool.acquire() as conn:
        rows = await conn.fetch(
            ORGANIZATIONS["list_organizations"], *which, sort, order == "desc", limit, offset
        )
        total = await conn.fetchval(ORGANIZATIONS["count_organizations"], *which)
    return OrganizationList(
        organizations=[
            OrganizationLine(
                **_view(row).model_dump(),
                plan_code=row["plan_code"],
                subscription_status=row["subscription_status"],
                credit_pool=pool_view(row),
            )
            for row in rows
        ],
        total=total,
        limit=limit,
        offset=offset,
    )


@router.get("/orgs/{org_id}", summary="One organization")
async def get_organization(access: MemberDep, services: ServicesDep) -> OrganizationView:
    """Its name, state and, for its admins, where invoices go."""
    async with services.pool.acquire() as conn:
        return _seen_by(access, await _read(conn, access.org_id))


@router.patch("/orgs/{org_id}", summary="Change the name or the billing address")
@again_when_undone
async def change_organization(
    body: OrganizationChange, access: OrgAdminDep, services: ServicesDep
) -> OrganizationView:
    """Changes what is named. 409 for a personal organisation, and for a billing address where there
    is no subscription to send invoices for.
    """
    org_id = access.org_id
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(ORGANIZATIONS["lock_organization"], org_id)
        row = await _read(conn, org_id)
        if row["personal"]:
            raise personal_refused()
        before = {"org_name": row["org_name"], "billing_email": row["billing_email"]}
        if body.org_name is not None:
            await conn.execute(ORGANIZATIONS["rename_organization"], org_id, body.org_name)
        if body.billing_email is not None:
            if row["subscription_id"] is None:
                raise ApiError.of("no_subscription", details={"field": "billing_email"})
            await conn.execute(ORGANIZATIONS["change_billing_email"], org_id, body.billing_email)
        after = await _read(conn, org_id)
        await write_audit(
            conn,
            actor=access.user_id,
            action="org.changed",
            org_id=org_id,
            target=org_id,
            before=before,
            after={"org_name": after["org_name"], "billing_email": after["billing_email"]},
        )
    services.memberships.forget(access.user_id)
    return _seen_by(access, after)


@router.put("/orgs/{org_id}/suspension", summary="Suspend an organization, or lift that")
@again_when_undone
async def suspend_organization(
    body: Suspension, admin: SystemAdminDep, access: OrgAdminDep, services: ServicesDep
) -> SuspensionSet:
    """While it is suspended, nobody spends its credits through the LLM route or by an API key
    (within three seconds), and its own admins change nothing. Keys work again when it is lifted.
    Running requests end normally; balances stay. Gateways that charge in Redis by themselves are
    not stopped by it. Repeating it changes nothing.
    """
    org_id = access.org_id
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(ORGANIZATIONS["lock_organization"], org_id)
        before = await _read(conn, org_id)
        await conn.execute(ORGANIZATIONS["suspend"], org_id, body.suspended)
        after = await _read(conn, org_id)
        await write_audit(
            conn,
            actor=admin.user_id,
            action="org.suspended" if body.suspended else "org.suspension.lifted",
            org_id=org_id,
            target=org_id,
            before={"suspended_at": before["suspended_at"]},
            after={"suspended_at": after["suspended_at"], "reason": body.reason},
        )
        stopped = 0
        if after["suspended_at"] is not None:
            stopped = await conn.fetchval(KEYS["count_keys"], org_id, False, None)
    return SuspensionSet(**dict(_view(after)), keys_stopped=stopped)


@router.post("/orgs/{org_id}/delete", summary="End an organization for ever")
@again_when_undone
async def delete_organization(
    body: Deletion, admin: SystemAdminDep, access: OrgAdminDep, services: ServicesDep
) -> OrganizationDeleted:
    """Ends its subscription, its memberships and its API keys, and closes all allocations: what is
    left returns to its pool, running requests are charged. From the answer on nobody uses it; of
    more than 2,000 people the settler ends memberships and allocations, in batches. Its books stay
    readable for system admins, and its id is not used again. 409 for a personal organisation, and
    for one that is deleted.
    """
    org_id = access.org_id
    if body.confirm_org_id != org_id:
        raise ApiError(
            400,
            "confirm_org_id must be the id of the organization that is deleted",
            details={"field": "confirm_org_id"},
        )
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(ORGANIZATIONS["lock_organization"], org_id)
        row = await _read(conn, org_id)
        if row["personal"]:
            raise personal_refused()
        plan = await conn.fetchval(ORGANIZATIONS["end_subscription"], org_id)
        closing = await conn.fetchval(ORGANIZATIONS["count_to_close"], org_id)
        await conn.execute(ORGANIZATIONS["begin_ending"], org_id)
        await conn.execute(ORGANIZATIONS["stop_refreshing"], org_id)
        await conn.execute(ORGANIZATIONS["delete"], org_id)
        keys = await end_all_keys(conn, org_id, actor=admin.user_id)
        after = await _read(conn, org_id)
        await write_audit(
            conn,
            actor=admin.user_id,
            action="org.deleted",
            org_id=org_id,
            target=org_id,
            before={"plan_code": plan, "suspended_at": row["suspended_at"]},
            after={"reason": body.reason, "closing_allocations": closing},
        )
    # It has ended; a settler goes on with what is left, or fails here.
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await end_accounts(services.pool, org_id, batches=ENDED_AT_ONCE)
    return OrganizationDeleted(
        organization=_view(after), closing_allocations=closing, keys_ended=keys
    )


def personal_refused() -> ApiError:
    """The refusal of a change that makes no sense for an organisation of one."""
    return ApiError.of("personal_organization")


async def _read(conn: Connection, org_id: str) -> Record:
    row = await conn.fetchrow(ORGANIZATIONS["read_organization"], org_id)
    if row is None:
        raise ApiError(404, "Organization not found")
    return row


def _seen_by(access: Access, row: Record) -> OrganizationView:
    view = _view(row)
    return view if access.is_admin else view.model_copy(update={"billing_email": None})


def _view(row: Record) -> OrganizationView:
    state: State = "active"
    if row["deleted_at"] is not None:
        state = "deleted"
    elif row["suspended_at"] is not None:
        state = "suspended"
    return OrganizationView(
        org_id=row["org_id"],
        org_name=row["org_name"],
        slug=row["slug"],
        state=state,
        personal=row["personal"],
        billing_email=row["billing_email"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        suspended_at=row["suspended_at"],
        deleted_at=row["deleted_at"],
    )
