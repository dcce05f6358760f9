"""Moves credits from one member to another, or back to the pool."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from taximeter.api.billing.allocations import not_a_member
from taximeter.api.billing.transfers import carry_out, not_members
from taximeter.api.billing.views import PoolUpdated, pool_updated
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    MemberDep,
    OrgAdminDep,
    ServicesDep,
    own_user,
)
from taximeter.api.running.reports import ReportsDep
from taximeter.api.sql import MOVES
from taximeter.api.web.current_request import current_request_id
from taximeter.api.web.idempotency import IdempotencyKey
from taximeter.api.web.json_numbers import Body, Credits, UserId
from taximeter.api.web.paging import COUNTED_MAX, TOTAL, LimitParam, OffsetParam, total_of
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.stores import Connection
from taximeter.settler.moves.records import Request

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class Transfer(Body):
    """Credits of one member for another one."""

    from_user_id: UserId
    to_user_id: UserId
    credits: Credits

    @model_validator(mode="after")
    def _are_two(self) -> Transfer:
        if self.from_user_id == self.to_user_id:
            raise ValueError("to_user_id must be another user than from_user_id")
        return self


class Transferred(BaseModel):
    """What was transferred."""

    success: bool = True
    transferred_credits: float
    from_user_id: str
    to_user_id: str
    move_id: str
    live: bool = Field(description="Whether both live balances have it; else they will")


class Deallocation(Body):
    """Credits of a member that go back to the pool."""

    user_id: UserId
    credits: Credits


class Deallocated(BaseModel):
    """What went back, and the pool right after that."""

    success: bool = True
    deallocated_credits: float
    user_id: str
    pool_updated: PoolUpdated
    move_id: str
    live: bool = Field(description="Whether the live balance has it; else it will")


class MoveView(BaseModel):
    """Credits that have left an account. `kind` is transfer, deallocation, removal or expiry;
    without `to_user_id` they went back to the pool.
    """

    id: str
    kind: str
    from_user_id: str
    to_user_id: str | None = Field(description="Null: back to the pool")
    credits: float
    moved_by: str
    moved_at: datetime


class MoveList(BaseModel):
    """A page of moves, newest first."""

    moves: list[MoveView]
    total: int | None = Field(description=TOTAL)
    limit: int
    offset: int


@router.post("/credits/{org_id}/transfer", summary="Transfer credits between members")
async def transfer(
    body: Transfer,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Transferred:
    """Moves credits that the first member could spend right now; what their running requests hold
    stays.

    400 INSUFFICIENT_CREDITS when the live balance does not cover it, 400 unless both are active
    members, 409 if the key has moved something else, 503 when the live balance cannot be asked
    (nothing has moved).
    """
    request = Request(
        access.org_id,
        "transfer",
        body.from_user_id,
        body.credits,
        access.user_id,
        to_user=body.to_user_id,
        key=idempotency_key,
        request_id=current_request_id(),
    )
    users = [body.from_user_id, body.to_user_id]

    async def check_members() -> None:
        members = await services.pool.fetchval(MOVES["count_active_members"], access.org_id, users)
        if members != len(users):
            raise not_members()

    done = await carry_out(services.stores, services.tracker, request, check_members)
    for user_id in users:
        services.memberships.forget(user_id)
    live = done.live or await services.live.apply_now(access.org_id, *users)
    return Transferred(
        transferred_credits=credits_of(done.amount),
        from_user_id=body.from_user_id,
        to_user_id=body.to_user_id,
        move_id=str(done.id),
        live=live,
    )


@router.post("/credits/{org_id}/deallocate", summary="Return a member's credits to the pool")
async def deallocate(
    body: Deallocation,
    access: OrgAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Deallocated:
    """Takes back what the member could spend right now, never what is used or held by running
    requests.

    400 INSUFFICIENT_CREDITS with need and have when the live balance does not cover it, 404 for a
    user who is no member and has no credits, 409 and 503 as for a transfer.
    """
    request = Request(
        access.org_id,
        "deallocation",
        body.user_id,
        body.credits,
        access.user_id,
        key=idempotency_key,
        request_id=current_request_id(),
    )

    async def check_user() -> None:
        if not await services.pool.fetchval(MOVES["is_known_user"], access.org_id, body.user_id):
            raise not_a_member()

    done = await carry_out(services.stores, services.tracker, request, check_user)
    services.memberships.forget(body.user_id)
    live = done.live or await services.live.apply_now(access.org_id, body.user_id)
    return Deallocated(
        deallocated_credits=credits_of(done.amount),
        user_id=body.user_id,
        pool_updated=pool_updated(done.pool_allocated, done.pool_available),
        move_id=str(done.id),
        live=live,
    )


@router.get("/credits/{org_id}/moves", summary="Credits that changed hands")
async def list_moves(
    access: MemberDep,
    reports: ReportsDep,
    user_id: Annotated[UserId | None, Query()] = None,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> MoveList:
    """Transfers, deallocations and what closed allocations returned. Admins see all, members those
    that concern them.
    """
    user_id = own_user(access, user_id)

    async def page(conn: Connection) -> tuple[list[Record], int]:
        which = (access.org_id, user_id)
        rows = await conn.fetch(MOVES["list_moves"], *which, limit, offset)
        return rows, await conn.fetchval(MOVES["count_moves"], *which, COUNTED_MAX + 1)

    rows, counted = await reports.read(page)
    moves = [_view(row) for row in rows]
    return MoveList(moves=moves, total=total_of(counted), limit=limit, offset=offset)


def _view(row: Record) -> MoveView:
    return MoveView(
        id=str(row["id"]),
        kind=row["kind"],
        from_user_id=row["from_user"],
        to_user_id=row["to_user"],
        credits=credits_of(row["amount"]),
        moved_by=row["actor"],
        moved_at=row["ended_at"],
    )
