"""Shapes what several answers share. Credits are JSON numbers of credits."""

from __future__ import annotations

import json
from datetime import date, datetime

from asyncpg import Record
from pydantic import BaseModel, Field

from taximeter.meter.wire.credits import credits_of
from taximeter.settler.settling.read_your_writes import AsOf


class FromBooks(BaseModel):
    """Figures of the books. `complete`: they hold every charge that was acknowledged before the
    question. `as_of`: they hold every charge before that moment; null when not even that is known.
    """

    as_of: datetime | None
    complete: bool


class SubscriptionView(BaseModel):
    """A subscription as it is shown. Prices are dollars a month."""

    id: str
    org_id: str
    plan_code: str
    plan_name: str
    monthly_price: float
    status: str
    billing_cycle_start: date
    billing_cycle_end: date
    lago_subscription_id: str | None
    created_at: datetime
    cancel_at_period_end: bool
    pending_plan_code: str | None


class PoolView(BaseModel):
    """What an organisation owns: total = available + allocated + what closed allocations have
    used.
    """

    total_credits: float
    allocated_credits: float
    used_credits: float
    available_credits: float


class PoolUpdated(BaseModel):
    """What a change of one allocation left of the pool."""

    allocated_credits: float
    available_credits: float


class PoolDetails(PoolView, FromBooks):
    """A pool with its percentages, each of what the one before it is part of. Usage is of
    everything that was ever allocated, so closed credits count on both sides.
    """

    org_id: str
    closed_credits: float = Field(description="What closed allocations have used")
    monthly_refresh_amount: float
    last_refresh_date: date | None
    allocation_percentage: float
    usage_percentage: float


class AllocationView(BaseModel):
    """An allocation. `remaining_credits` is live if `live` is true, else as settled; `used_credits`
    is of the books.

    Remaining counts what open requests hold (`held_credits`), since most of that comes back.
    """

    id: str
    user_id: str
    user_email: str | None = None
    allocated_credits: float
    used_credits: float
    remaining_credits: float
    held_credits: float = 0.0
    live: bool = False
    usage_percentage: float
    is_active: bool
    allocated_by: str | None
    allocated_at: datetime
    expires_at: datetime | None
    auto_renew: bool
    last_request_at: datetime | None = Field(
        default=None,
        description="When the user was last charged, as settled, if it is told and was in the last "
        "90 days",
    )
    credits_by_day: list[float] | None = Field(
        default=None,
        description="Credits of each of the user's last 14 days in UTC, the last one today, if "
        "they are told",
    )


def percentage(part: int, whole: int) -> float:
    """part / whole in percent, to two decimals; 0 of nothing."""
    return round(100 * part / whole, 2) if whole else 0.0


def subscription_view(row: Record) -> SubscriptionView:
    """A row of organization_subscriptions."""
    pending = row["pending_plan"]
    return SubscriptionView(
        id=str(row["id"]),
        org_id=row["org_id"],
        plan_code=row["plan_code"],
        plan_name=row["plan_name"],
        monthly_price=float(row["monthly_price"]),
        status=row["status"],
        billing_cycle_start=row["billing_cycle_start"],
        billing_cycle_end=row["billing_cycle_end"],
        lago_subscription_id=row["lago_subscription_id"],
        created_at=row["created_at"],
        cancel_at_period_end=row["cancel_at_period_end"],
        pending_plan_code=json.loads(pending)["plan_code"] if pending is not None else None,
    )


def pool_view(row: Record) -> PoolView:
    """A row of organization_credit_pools."""
    return PoolView(
        total_credits=credits_of(row["total_credits"]),
        allocated_credits=credits_of(row["allocated_credits"]),
        used_credits=credits_of(row["used_credits"]),
        available_credits=credits_of(row["available_credits"]),
    )


def pool_updated(allocated: int, available: int) -> PoolUpdated:
    """Millicredits of a pool after a change of one allocation."""
    return PoolUpdated(
        allocated_credits=credits_of(allocated), available_credits=credits_of(available)
    )


def pool_details(org_id: str, row: Record | None, books: AsOf) -> PoolDetails:
    """A pool in full. An organisation that has never bought anything has a pool of nothing."""
    if row is None:
        return PoolDetails(
            as_of=books.as_of,
            complete=books.complete,
            org_id=org_id,
            total_credits=0.0,
            allocated_credits=0.0,
            used_credits=0.0,
            available_credits=0.0,
            closed_credits=0.0,
            monthly_refresh_amount=0.0,
            last_refresh_date=None,
            allocation_percentage=0.0,
            usage_percentage=0.0,
        )
    return PoolDetails(
        **pool_view(row).model_dump(),
        as_of=books.as_of,
        complete=books.complete,
        org_id=org_id,
        closed_credits=credits_of(row["closed_credits"]),
        monthly_refresh_amount=credits_of(row["monthly_refresh_amount"]),
        last_refresh_date=row["last_refresh_date"],
        allocation_percentage=percentage(row["allocated_credits"], row["total_credits"]),
        usage_percentage=percentage(
            row["used_credits"], row["allocated_credits"] + row["closed_credits"]
        ),
    )


def allocation_view(row: Record, *, remaining: int | None = None, held: int = 0) -> AllocationView:
    """A row of user_credit_allocations, with the live balance (available and held) where it is
    known.
    """
    return AllocationView(
        id=str(row["id"]),
        user_id=row["user_id"],
        user_email=row["email"],
        allocated_credits=credits_of(row["allocated_credits"]),
        used_credits=credits_of(row["used_credits"]),
        remaining_credits=credits_of(row["remaining_credits"] if remaining is None else remaining),
        held_credits=credits_of(held),
        live=remaining is not None,
        usage_percentage=percentage(row["used_credits"], row["allocated_credits"]),
        is_active=row["is_active"],
        allocated_by=row["allocated_by"],
        allocated_at=row["created_at"],
        expires_at=row["expires_at"],
        auto_renew=row["auto_renew"],
    )
