"""Adds, changes and removes members of an organisation."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from asyncpg import Record
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, StrictBool

from taximeter.api.billing.allocations import not_a_member
from taximeter.api.billing.audit import write_audit
from taximeter.api.billing.leaving import Ended, end_what_acts_for, refuse_to_keep
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, OrgAdminDep, ServicesDep
from taximeter.api.running.services import Services
from taximeter.api.sql import IDENTITY, MOVES, USERS
from taximeter.api.web.current_request import current_request_id
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import Body, NewUserId, ShortText, UserId
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
from taximeter.api.web.retries import again_when_undone
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.retries import TRANSIENT
from taximeter.settler.books.stores import Connection
from taximeter.settler.moves.closing import Closing, begin_removal, take_back
from taximeter.settler.moves.moves import LiveSideAway

router = APIRouter(prefix="/api/v1/org-billing", tags=["members"], route_class=CallerFirstRoute)

Role = Literal["admin", "member"]

SEARCHED_MAX = 10_000
"""Members of an organisation that a search looks at."""
INVITATIONS_OF_ORGANIZATION_MAX = 500
"""Most invitations of an organisation that wait for an answer."""
INVITATIONS_OF_USER_MAX = 50
"""Most that wait for the answer of one user."""


class NewMember(Body):
    """A user and what they may do. For a member or somebody invited, the role becomes this one."""

    user_id: NewUserId
    role: Role = "member"
    keep_keys: StrictBool = Field(
        default=False,
        description="Whether API keys go on that were made by an admin who is to be one no more",
    )


class MemberView(BaseModel):
    """One member, or somebody who was invited and has not answered yet."""

    user_id: str
    user_email: str | None = Field(description="Of active members alone, where it is known")
    role: str
    status: str = Field(description="active, or invited until the user accepts")
    created_at: datetime = Field(description="When they became what the status says")


class MemberList(BaseModel):
    """A page of members, oldest first."""

    members: list[MemberView]
    total: int | None = Field(description=TOTAL)
    limit: int
    offset: int
    next: str | None = Field(description=NEXT)


class MemberPut(Ended):
    """The member or invitation as it is now, and what ended if it was an admin and is none."""

    member: MemberView


class MemberRemoved(Ended):
    """Who is gone, what went back to the pool, and what ended with it. `closing`: requests are
    still running, and what they leave goes back when they end.
    """

    user_id: str
    returned_credits: float
    closing: bool


@router.get("/orgs/{org_id}/members", summary="Members of an organization")
async def list_members(
    access: OrgAdminDep,
    services: ServicesDep,
    status: Annotated[
        Literal["active", "invited"], Query(description="Members, or who was invited")
    ] = "active",
    search: Annotated[
        ShortText | None,
        Query(
            description="Only those with this in their id or address: the first ones, on one page"
            " that is not counted."
            f" Of an organization with more, the oldest {SEARCHED_MAX} are searched; a whole id is"
            " always found"
        ),
    ] = None,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
    cursor: CursorParam = None,
) -> MemberList:
    """Active members, or those who were invited, a page at a time."""
    place = read_cursor(cursor, datetime, str)
    if search is not None:
        async with services.pool.acquire() as conn:
            rows = await conn.fetch(
                IDENTITY["search_members"], access.org_id, limit, status, search, SEARCHED_MAX
            )
        found = [_view(row) for row in rows]
        return MemberList(members=found, total=None, limit=limit, offset=0, next=None)
    async with services.pool.acquire() as conn:
        rows = await conn.fetch(
            IDENTITY["list_members"], access.org_id, limit + 1, offset, status, *place
        )
        counted = await conn.fetchval(
            IDENTITY["count_members"], access.org_id, status, COUNTED_MAX + 1
        )
    shown = rows[:limit]
    return MemberList(
        members=[_view(row) for row in shown],
        total=total_of(counted),
        limit=limit,
        offset=offset,
        next=cursor_of(shown[-1]["created_at"], shown[-1]["user_id"])
        if len(rows) > limit
        else None,
    )


@router.post("/orgs/{org_id}/members", summary="Invite a user, or change a member's role")
@again_when_undone
async def put_member(body: NewMember, access: OrgAdminDep, services: ServicesDep) -> MemberPut:
    """An organisation's admin invites: the user is a member, and their address is shown, once they
    accept. A system admin adds them directly, and so does an admin whose session has the role that
    the identity provider gives for it. For a member, only the role is changed.

    Who is an admin no more loses the API keys that they have made, unless `keep_keys`, and the
    invitations.

    Repeating it changes nothing. 403 for who would keep their own keys; 409 if it would take the
    role from the last admin, for a personal organisation, for who has blocked its invitations, and
    while as many invitations of the organisation or to the user are open as there may be.
    """
    org_id, caller = access.org_id, access.principal
    if body.keep_keys:
        refuse_to_keep(actor=access.user_id, user_id=body.user_id)
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(IDENTITY["lock_organization"], org_id)
        await _refuse_personal(conn, org_id)
        before = await conn.fetchrow(IDENTITY["find_member"], org_id, body.user_id)
        is_member = before is not None and before["status"] == "active"
        is_demoted = body.role != "admin" and _is_active_admin(before)
        if is_demoted:
            await _keep_an_admin(conn, org_id, body.user_id)
        directly = is_member or caller.is_system_admin or caller.adds_members
        if not directly and _status(before) != "invited":
            await _refuse_to_invite(conn, org_id, body.user_id, _status(before))
        row = await conn.fetchrow(
            IDENTITY["put_member"],
            org_id,
            body.user_id,
            body.role,
            "active" if directly else "invited",
            access.user_id,
        )
        assert row is not None, "an upsert returns its row"
        await write_audit(
            conn,
            actor=access.user_id,
            action="org.member.added" if directly else "org.member.invited",
            org_id=org_id,
            target=body.user_id,
            before=_state(before),
            after=_state(row),
        )
        ended = Ended()
        if is_demoted:
            ended = await end_what_acts_for(
                conn,
                org_id,
                body.user_id,
                actor=access.user_id,
                is_member=True,
                keep_keys=body.keep_keys,
            )
    services.memberships.forget(body.user_id)
    return MemberPut(member=_view(row), **dict(ended))


@router.delete("/orgs/{org_id}/members/{user_id:path}", summary="Remove a member, or leave")
@again_when_undone
async def remove_member(
    user_id: Annotated[UserId, Path()],
    access: MemberDep,
    services: ServicesDep,
    keep_keys: Annotated[
        bool, Query(description="Whether API keys that the user has made go on")
    ] = False,
) -> MemberRemoved:
    """Admins remove members and withdraw invitations; every member may leave. Closes the user's
    allocation: what is left returns to the pool. Requests in progress finish and are charged; what
    they do not use returns when they end. API keys that act for the user or that the user has made
    end too, and the user's invitations; `keep_keys` keeps the keys that do not act for the user.

    403 for a member who names somebody else, and for who would keep their own keys; 404 if the user
    is no active member and was not invited; 409 for the last admin, and for the user of a personal
    organisation.
    """
    org_id = access.org_id
    if user_id != access.user_id and not access.is_admin:
        raise ApiError(403, "Org admin permission required")
    if keep_keys:
        refuse_to_keep(actor=access.user_id, user_id=user_id)
    async with services.pool.acquire() as conn, conn.transaction():
        await conn.fetchval(IDENTITY["lock_organization"], org_id)
        before = await conn.fetchrow(IDENTITY["find_member"], org_id, user_id)
        if before is None or before["status"] not in ("active", "invited"):
            raise not_a_member()
        await _refuse_personal(conn, org_id)
        if _is_active_admin(before):
            await _keep_an_admin(conn, org_id, user_id)
        await conn.execute(IDENTITY["remove_member"], org_id, user_id)
        closing = await begin_removal(conn, org_id, user_id)
        await write_audit(
            conn,
            actor=access.user_id,
            action=_ending(before, by_user=user_id == access.user_id),
            org_id=org_id,
            target=user_id,
            before=_state(before),
            after={"status": "removed"},
        )
        ended = Ended()
        if before["status"] == "active":
            ended = await end_what_acts_for(
                conn,
                org_id,
                user_id,
                actor=access.user_id,
                is_member=False,
                keep_keys=keep_keys,
            )
    services.memberships.forget(user_id)
    if closing is None:
        return MemberRemoved(user_id=user_id, returned_credits=0.0, closing=False, **dict(ended))
    returned, is_closed = await asyncio.shield(
        services.tracker.spawn(_take_back(services, closing, access.user_id))
    )
    return MemberRemoved(
        user_id=user_id,
        returned_credits=credits_of(returned),
        closing=not is_closed,
        **dict(ended),
    )


def _ending(before: Record, *, by_user: bool) -> str:
    if before["status"] == "invited":
        return "org.invitation.withdrawn"
    return "org.member.left" if by_user else "org.member.removed"


async def _refuse_personal(conn: Connection, org_id: str) -> None:
    """The one member of a personal organisation is all that leads to its credits."""
    if await conn.fetchval(USERS["personal_owner"], org_id) is not None:
        words = "A personal organization has one member for ever"
        raise ApiError.of("personal_organization", words=words)


async def _take_back(services: Services, closing: Closing, actor: str) -> tuple[int, bool]:
    """What is free goes back now; the settler takes the rest, and all of it if that is not
    possible now.
    """
    try:
        returned = await take_back(services.stores, closing, actor, current_request_id())
    except (LiveSideAway, *TRANSIENT):
        return 0, False
    is_open = await services.pool.fetchval(MOVES["is_active_allocation"], closing.allocation_id)
    return returned, not is_open


def _is_active_admin(row: Record | None) -> bool:
    return row is not None and row["role"] == "admin" and row["status"] == "active"


async def _keep_an_admin(conn: Connection, org_id: str, user_id: str) -> None:
    if await conn.fetchval(IDENTITY["other_admins"], org_id, user_id) == 0:
        raise ApiError.of("last_admin")


def _state(row: Record | None) -> dict[str, object] | None:
    return None if row is None else {"role": row["role"], "status": row["status"]}


def _view(row: Record) -> MemberView:
    return MemberView(
        user_id=row["user_id"],
        user_email=row["email"],
        role=row["role"],
        status=row["status"],
        created_at=row["created_at"],
    )


def _status(row: Record | None) -> str | None:
    return None if row is None else row["status"]


async def _refuse_to_invite(
    conn: Connection, org_id: str, user_id: str, status: str | None
) -> None:
    """Raise ApiError 409 for who does not want it, or when too many invitations are open. Others
    who invite this user now wait.
    """
    if status == "blocked":
        raise ApiError.of("invitations_blocked")
    await conn.fetchval(IDENTITY["lock_invitations_of"], user_id)
    open_ones = await conn.fetchrow(IDENTITY["open_invitations"], org_id, user_id)
    assert open_ones is not None, "a query of two counts has one row"
    for whose, count, most in (
        ("organization", open_ones["of_organization"], INVITATIONS_OF_ORGANIZATION_MAX),
        ("user", open_ones["of_user"], INVITATIONS_OF_USER_MAX),
    ):
        if count >= most:
            raise ApiError.of(
                "too_many_invitations",
                details={"limit": whose, "most": most},
                most=most,
                whose=whose,
            )
