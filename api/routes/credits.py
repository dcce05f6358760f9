"""The pool of an organisation, and what its users may spend of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, StrictBool

from taximeter.api.access.dependencies import (
    Access,
    CallerFirstRoute,
    MemberDep,
    OrgAdminDep,
    ServicesDep,
    own_user,
)
from taximeter.api.billing.audit import write_audit
from taximeter.api.billing.live_balances import Account, live_balances, made_live
from taximeter.api.billing.views import (
    AllocationView,
    FromBooks,
    PoolDetails,
    allocation_view,
    pool_details,
)
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import INSUFFICIENT_CREDITS, ApiError, text_of_credits
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import (
    Body,
    Credits,
    Time,
    UserId,
    credits_of,
    in_the_future,
)
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.api.web.retries import again_when_undone
from taximeter.meter import Balance
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.settler.books.stores import Connection

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


class PoolUpdated(BaseModel):
    """What an allocation left of the pool."""

    allocated_credits: float
    available_credits: float


class Allocated(BaseModel):
    """The user's allocation, with what it had before, and the pool."""

    allocation: AllocationView
    pool_updated: PoolUpdated


class AllocationList(FromBooks):
    """A page of allocations. `complete` and `as_of` are about what is used of them."""

    allocations: list[AllocationView]
    total: int
    limit: int
    offset: int


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
    async with services.pool.acquire() as conn:
        try:
            async with conn.transaction():
                answer = await answer_once(
                    conn,
                    Repeatable("credits.allocate", access.org_id, idempotency_key, body),
                    Allocated,
                    lambda: allocate_credits(
                        conn,
                        access,
                        body.user_id,
                        body.credits,
                        names_an_end="expires_at" in body.model_fields_set,
                        expires_at=body.expires_at,
                        auto_renew=body.auto_renew,
                    ),
                )
        except (asyncpg.CheckViolationError, asyncpg.ForeignKeyViolationError) as error:
            pool = await conn.fetchrow(CREDITS["pool"], access.org_id)
            raise allocation_refusal(pool, body.credits, error) from error
    services.memberships.forget(body.user_id)
    allocation = await made_live(services, access.org_id, answer.allocation)
    return answer.model_copy(update={"allocation": allocation})


async def allocate_credits(
    conn: Connection,
    access: Access,
    user_id: str,
    millicredits: int,
    *,
    names_an_end: bool = False,
    expires_at: datetime | None = None,
    auto_renew: bool | None = None,
) -> Allocated:
    """Give a member credits of the pool, in the caller's transaction. Raises ApiError 404 for
    somebody else, and asyncpg's integrity errors, which `allocation_refusal` puts into words.
    """
    org_id = access.org_id
    if await conn.fetchval(CREDITS["lock_member"], org_id, user_id) is None:
        raise ApiError(
            404,
            "The user is not an active member of this organization",
            details={"field": "user_id"},
        )
    allocation_id = await conn.fetchval(
        CREDITS["allocate"],
        org_id,
        user_id,
        millicredits,
        access.user_id,
        names_an_end,
        expires_at,
        auto_renew,
    )
    row = await conn.fetchrow(CREDITS["read_allocation"], allocation_id)
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert row is not None, "it was allocated above"
    assert pool is not None, "an allocation has a pool"
    await _audit_allocation(conn, access.user_id, org_id, millicredits, row, pool)
    return Allocated(
        allocation=allocation_view(row),
        pool_updated=PoolUpdated(
            allocated_credits=credits_of(pool["allocated_credits"]),
            available_credits=credits_of(pool["available_credits"]),
        ),
    )


async def _audit_allocation(
    conn: Connection,
    actor: str,
    org_id: str,
    millicredits: int,
    row: Record,
    pool: Record,
) -> None:
    allocated = row["allocated_credits"]
    # An allocation that holds no more than this request gave it was opened by it.
    opened = allocated == millicredits and row["used_credits"] == 0
    await write_audit(
        conn,
        actor=actor,
        action="user.allocation.created" if opened else "org.credits.allocated",
        org_id=org_id,
        target=row["user_id"],
        before={
            "allocated_credits": allocated - millicredits,
            "pool_available_credits": pool["available_credits"] + millicredits,
        },
        after={
            "allocated_credits": allocated,
            "pool_available_credits": pool["available_credits"],
        },
    )


def allocation_refusal(
    pool: Record | None, need: int, error: asyncpg.IntegrityConstraintViolationError
) -> ApiError:
    """Why an allocation was refused: its terms do not go together, the pool as it is could not pay,
    or the cap is reached.
    """
    constraint = getattr(error, "constraint_name", None)
    if constraint == "renewal_needs_an_end":
        return ApiError(
            400,
            "auto_renew: an allocation renews at its end, and this one has none; name expires_at",
            details={"field": "auto_renew"},
        )
    if constraint == "one_end_for_an_allocation":
        return ApiError(
            409,
            "expires_at: this user's allocation ends at another time, and credits with different "
            "ends are not merged. Leave it out to add to the allocation as it stands, or send null "
            "to take its end away",
            code="EXPIRY_CONFLICT",
            details={"field": "expires_at", "standing_expires_at": error.detail},
        )
    if constraint not in ("pool_can_pay", "allocation_has_a_pool"):
        return ApiError(
            400,
            f"credits: an allocation holds at most {text_of_credits(BALANCE_MAX)} credits",
            details={"field": "credits", "limit": credits_of(BALANCE_MAX)},
        )
    return pool_cannot_pay(need, pool["available_credits"] if pool is not None else 0)


def pool_cannot_pay(need: int, have: int) -> ApiError:
    """The refusal where a pool has less millicredits available than are needed."""
    return ApiError(
        400,
        "Insufficient credits in the organization's pool. "
        f"Need {text_of_credits(need)}, have {text_of_credits(have)}",
        code=INSUFFICIENT_CREDITS,
        details={"need": credits_of(need), "have": credits_of(have)},
    )


@router.get("/credits/{org_id}/allocations", summary="Allocations, with live balances")
async def list_allocations(
    access: MemberDep,
    services: ServicesDep,
    user_id: Annotated[UserId | None, Query()] = None,
    is_active: Annotated[bool | None, Query()] = None,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> AllocationList:
    """Admins see all, members their own. What remains of an active allocation is read from the live
    balance.
    """
    user_id = own_user(access, user_id)
    books = await services.catch_up.of_org(access.org_id)
    parameters = (access.org_id, user_id, is_active)
    async with services.pool.acquire() as conn:
        total = await conn.fetchval(CREDITS["count_allocations"], *parameters)
        rows = await conn.fetch(CREDITS["list_allocations"], *parameters, limit, offset)
    active = [(access.org_id, row["user_id"]) for row in rows if row["is_active"]]
    balances = await live_balances(services, active)
    return AllocationList(
        as_of=books.as_of,
        complete=books.complete,
        allocations=[with_balance(row, access.org_id, balances) for row in rows],
        total=total,
        limit=limit,
        offset=offset,
    )


def with_balance(row: Record, org_id: str, balances: Mapping[Account, Balance]) -> AllocationView:
    """An allocation with its live balance, where that is known."""
    balance = balances.get((org_id, row["user_id"])) if row["is_active"] else None
    if balance is None:
        return allocation_view(row)
    return allocation_view(row, remaining=balance.available + balance.held, held=balance.held)
