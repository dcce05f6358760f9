"""Grants individual credits: those of an organisation of one, so that nothing else has to know of
them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from taximeter.api.access.sessions import Principal
from taximeter.api.billing.allocations import allocate_credits, allocating
from taximeter.api.billing.personal import personal_org_id
from taximeter.api.billing.purchases import TransactionView, book_purchase, transaction_view
from taximeter.api.billing.views import AllocationView, PoolUpdated
from taximeter.api.billing.vouching import BY_SYSTEM_ADMIN
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    ServicesDep,
    SystemAdminDep,
    claim_if_new,
)
from taximeter.api.sql import CREDITS, USERS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, answer_once
from taximeter.api.web.json_numbers import Body, Credits, Dollars, NewUserId
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["credits"], route_class=CallerFirstRoute)


class Grant(Body):
    """Credits for one user, who needs no organisation for them."""

    credits: Credits
    purchase_amount: Dollars = Field(default=Decimal(0), description="What was paid, in dollars")


class Granted(BaseModel):
    """The user's personal organisation, and what it has now."""

    org_id: str
    allocation: AllocationView
    pool_updated: PoolUpdated
    transaction: TransactionView


@router.post("/users/{user_id:path}/credits", summary="Grant individual credits to a user")
@again_when_undone
async def grant_credits(
    user_id: Annotated[NewUserId, Path(examples=["ann"])],
    body: Grant,
    admin: SystemAdminDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Granted:
    """Makes the user's personal organisation if there is none, adds the credits to its pool and
    allocates them; they can be spent when the answer comes (`live`). It pays where the user has no
    other organisation with an allocation, or where they choose it.

    Repetitions, limits and refusals are those of add and allocate.
    """
    await claim_if_new(services, personal_org_id(user_id))
    async with allocating(services.pool, personal_org_id(user_id), body.credits) as conn:
        answer = await answer_once(
            conn,
            Repeatable("users.credits", user_id, idempotency_key, body),
            Granted,
            lambda: _grant(conn, admin, user_id, body, idempotency_key),
        )
    services.memberships.forget(user_id)
    allocation = await services.live.made_live(answer.org_id, answer.allocation)
    return answer.model_copy(update={"allocation": allocation})


async def _grant(
    conn: Connection, admin: Principal, user_id: str, body: Grant, key: str | None
) -> Granted:
    org_id = await _personal_organization(conn, admin.user_id, user_id)
    await conn.execute(CREDITS["open_account"], org_id, user_id, admin.user_id)
    line = await book_purchase(
        conn,
        org_id,
        admin.user_id,
        millicredits=body.credits,
        dollars=body.purchase_amount,
        vouched_by=BY_SYSTEM_ADMIN,
        idempotency_key=key,
    )
    allocated = await allocate_credits(conn, org_id, user_id, body.credits, actor=admin.user_id)
    return Granted(
        org_id=org_id,
        allocation=allocated.allocation,
        pool_updated=allocated.pool_updated,
        transaction=transaction_view(line),
    )


async def _personal_organization(conn: Connection, creator: str, user_id: str) -> str:
    """The id of the user's personal organisation, made if it is missing, with its one member."""
    await conn.execute(
        USERS["create_personal_organization"],
        personal_org_id(user_id),
        f"Personal credits of {user_id}"[:255],
        creator,
        user_id,
    )
    org_id: str | None = await conn.fetchval(USERS["find_personal_organization"], user_id)
    if org_id is None:
        raise ApiError(
            409,
            f"{personal_org_id(user_id)} is an organization that is not this user's own",
            details={"field": "user_id"},
        )
    await conn.execute(USERS["join_personal_organization"], org_id, user_id)
    return org_id
