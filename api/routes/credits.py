"""Shows the pool of an organisation, and allocates it to users."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, Field, StrictBool

from taximeter.api.billing.activity import with_activity
from taximeter.api.billing.allocations import Allocated, allocate_credits, allocating
from taximeter.api.billing.live_balances import with_balance
from taximeter.api.billing.views import (
    AllocationView,
    FromBooks,
    PoolDetails,
    pool_details,
)
from taximeter.api.running.dependencies import (
    Access,
    CallerFirstRoute,
    MemberDep,
    OrgAdminDep,
    ServicesDep,
    own_user,
)
from taximeter.api.running.services import Services
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import Body, Credits, ShortText, Time, UserId, in_the_future
from taximeter.api.web.paging import (
    COUNTED_MAX,
    NEXT,
    TOTAL,
    CursorParam,
    LimitParam,
    OffsetParam,
    cursor_of,
    like_pattern,
    read_cursor,
    total_of,
)
from taximeter.api.web.retries import again_when_undone

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class NewAllocation(Body):
    """Credits of the pool for one user. An allocation has one end: without `expires_at` the credits
    end with the allocation that stands, null takes its end away (and renewing with it), and another
    end than its own is refused.
    """

    user_id: UserId
    credits: Credits
    expires_at: Annotated[Time, AfterValidator(in_the_future)] | None = None
    auto_renew: StrictBool | None = None


Sort = Literal[
    "user", "allocated_credits", "used_credits", "remaining_credits", "expires_at", "allocated_at"
]


class AllocationList(FromBooks):
    """A page of allocations. `complete` and `as_of` are about what is used of them."""

    allocations: list[AllocationView]
    total: int | None = Field(description=TOTAL)
    limit: int
    offset: int
    next: str | None = Field(description=NEXT)


@router.get("/credits/{org_id}", summary="The credit pool of an organization")
async def get_pool(access: MemberDep, services: ServicesDep) -> PoolDetails:
    """Total, allocated, used and available. `used` includes what was charged before the question;
    `complete` and `as_of` say if not.
    """
    books = await services.catch_up.of_org(access.org_id)
    row = await services.pool.fetchrow(CREDITS["pool"], access.org_id)
    return pool_details(access.org_id, row, books)


@router.post("/credits/{org_id}/allocate", summary="Allocate credits to a user")
@again_when_undone
async def allocate(
    body: NewAllocation,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Allocated:
    """Adds to the user's active allocation, or opens one. It can be spent when the answer comes:
    `live` is true, and what remains and is held is of now, also in the answer to a repetition.
    Where the live balance is away, `live` is false, and it has the credits once it is back.

    400 INSUFFICIENT_CREDITS if the pool cannot pay, and for auto_renew without an end; 404 if the
    user is no active member; 409 EXPIRY_CONFLICT for another end than that of the credits that the
    user has.
    """
    async with allocating(services.pool, access.org_id, body.credits) as conn:
        answer = await answer_once(
            conn,
            Repeatable("credits.allocate", access.org_id, idempotency_key, body),
            Allocated,
            lambda: allocate_credits(
                conn,
                access.org_id,
                body.user_id,
                body.credits,
                actor=access.user_id,
                names_an_end="expires_at" in body.model_fields_set,
                expires_at=body.expires_at,
                auto_renew=body.auto_renew,
            ),
        )
    services.memberships.forget(body.user_id)
    allocation = await services.live.made_live(access.org_id, answer.allocation)
    return answer.model_copy(update={"allocation": allocation})


@router.get("/credits/{org_id}/allocations", summary="Allocations, with live balances")
async def list_allocations(
    access: MemberDep,
    services: ServicesDep,
    user_id: Annotated[UserId | None, Query()] = None,
    is_active: Annotated[bool | None, Query()] = None,
    search: Annotated[
        ShortText | None, Query(description="A part of the user's id or address")
    ] = None,
    has_end: Annotated[bool, Query(description="Only those that end on a day")] = False,
    sort: Annotated[
        Sort | None,
        Query(
            description="What the list is ordered by, amounts as settled; else active ones first,"
            " and the newest of them"
        ),
    ] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="In which direction")] = "asc",
    activity: Annotated[
        bool, Query(description="Also when each user was last charged, and their last days")
    ] = False,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
    cursor: CursorParam = None,
) -> AllocationList:
    """Admins see all, members their own. What remains of an active allocation is read from the live
    balance.

    Where more than 10,000 would have to be looked through, `search`, `sort` and `has_end` are
    refused with 400: ask for one user, or page in the order that is kept.
    """
    user_id = own_user(access, user_id)
    if search is not None or sort is not None or has_end:
        asked = _Asked(user_id, is_active, like_pattern(search), has_end)
        if offset:
            raise ApiError(400, "offset: this order goes on by cursor", details={"field": "offset"})
        by = _Order(sort or "user", order == "desc", limit, cursor)
        return await _sorted_allocations(access, services, asked, by, activity)
    place = read_cursor(cursor, bool, datetime, UUID)
    books = await services.catch_up.of_org(access.org_id)
    parameters = (access.org_id, user_id, is_active)
    async with services.pool.acquire() as conn:
        counted = await conn.fetchval(CREDITS["count_allocations"], *parameters, COUNTED_MAX + 1)
        found = await conn.fetch(
            CREDITS["list_allocations"], *parameters, limit + 1, offset, *place
        )
    rows = found[:limit]
    active = [(access.org_id, row["user_id"]) for row in rows if row["is_active"]]
    balances = await services.live.read(active)
    views = [with_balance(row, access.org_id, balances) for row in rows]
    return AllocationList(
        as_of=books.as_of,
        complete=books.complete,
        allocations=await with_activity(services.pool, access.org_id, views) if activity else views,
        total=total_of(counted),
        limit=limit,
        offset=offset,
        next=cursor_of(*(rows[-1][name] for name in ("is_active", "created_at", "id")))
        if len(found) > limit
        else None,
    )


class _Asked(NamedTuple):
    """Which allocations of an organisation."""

    user_id: str | None
    is_active: bool | None
    pattern: str | None
    has_end: bool


class _Order(NamedTuple):
    """In which order, how many of them, and from where on."""

    sort: str
    descending: bool
    limit: int
    cursor: str | None


async def _sorted_allocations(
    access: Access, services: Services, asked: _Asked, by: _Order, activity: bool
) -> AllocationList:
    place = read_cursor(by.cursor, str, int, UUID)
    org_id = access.org_id
    books = await services.catch_up.of_org(org_id)
    async with services.pool.acquire() as conn:
        most = await conn.fetchval(
            CREDITS["count_allocations"],
            *(org_id, asked.user_id, asked.is_active, COUNTED_MAX + 1),
        )
        if most > COUNTED_MAX:
            raise ApiError(
                400,
                f"search, sort, has_end: more than {COUNTED_MAX:,} allocations would have to be "
                "looked through; ask with user_id, or without these",
                details={"field": "sort"},
            )
        counted = await conn.fetchval(CREDITS["count_found_allocations"], org_id, *asked)
        found = await conn.fetch(
            CREDITS["sorted_allocations"],
            *(org_id, *asked, by.sort, by.descending, by.limit + 1, *place),
        )
    rows = found[: by.limit]
    active = [(org_id, row["user_id"]) for row in rows if row["is_active"]]
    balances = await services.live.read(active)
    views = [with_balance(row, org_id, balances) for row in rows]
    return AllocationList(
        as_of=books.as_of,
        complete=books.complete,
        allocations=await with_activity(services.pool, org_id, views) if activity else views,
        total=counted,
        limit=by.limit,
        offset=0,
        next=cursor_of(*(rows[-1][name] for name in ("sort_text", "sort_number", "id")))
        if len(found) > by.limit
        else None,
    )
