"""Allocates credits of a pool to its members in the caller's transaction; words the refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
from asyncpg import Record
from pydantic import BaseModel

from taximeter.api.billing.audit import write_audit
from taximeter.api.billing.views import AllocationView, PoolUpdated, allocation_view, pool_updated
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import ApiError, admin_refusal
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.meter.wire.limits import BALANCE_MAX
from taximeter.settler.books.stores import Connection, Pool


class Allocated(BaseModel):
    """The user's allocation, with what it had before, and the pool."""

    allocation: AllocationView
    pool_updated: PoolUpdated


async def allocate_credits(
    conn: Connection,
    org_id: str,
    user_id: str,
    millicredits: int,
    *,
    actor: str,
    names_an_end: bool = False,
    expires_at: datetime | None = None,
    auto_renew: bool | None = None,
) -> Allocated:
    """Give a member credits of the pool, in the caller's transaction. Raises ApiError 404 for
    somebody else, and asyncpg's integrity errors, which `allocation_refusal` puts into words.
    """
    if await conn.fetchval(CREDITS["lock_member"], org_id, user_id) is None:
        raise not_a_member()
    allocation_id = await conn.fetchval(
        CREDITS["allocate"],
        org_id,
        user_id,
        millicredits,
        actor,
        names_an_end,
        expires_at,
        auto_renew,
    )
    row = await conn.fetchrow(CREDITS["read_allocation"], allocation_id)
    pool = await conn.fetchrow(CREDITS["pool"], org_id)
    assert row is not None, "it was allocated above"
    assert pool is not None, "an allocation has a pool"
    await _audit_allocation(conn, actor, org_id, millicredits, row, pool)
    return Allocated(
        allocation=allocation_view(row),
        pool_updated=pool_updated(pool["allocated_credits"], pool["available_credits"]),
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
        return ApiError.of(
            "expiry_conflict",
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
    return admin_refusal(
        "insufficient_credits",
        details={"need": credits_of(need), "have": credits_of(have)},
        need=text_of_credits(need),
        have=text_of_credits(have),
    )


@asynccontextmanager
async def allocating(pool: Pool, org_id: str, millicredits: int) -> AsyncIterator[Connection]:
    """A transaction that allocates credits of the organisation's pool. What the database refuses of
    them is raised as an ApiError that says why, by the pool as it is then.
    """
    async with pool.acquire() as conn:
        try:
            async with conn.transaction():
                yield conn
        except (asyncpg.CheckViolationError, asyncpg.ForeignKeyViolationError) as error:
            row = await conn.fetchrow(CREDITS["pool"], org_id)
            raise allocation_refusal(row, millicredits, error) from error


def not_a_member() -> ApiError:
    """The refusal of credits for somebody who is no active member."""
    return admin_refusal("account_not_found", details={"field": "user_id"})
