"""Finds the subscription that an organisation has, and words the refusal where there is none."""

from __future__ import annotations

from asyncpg import Record

from taximeter.api.sql import SUBSCRIPTIONS
from taximeter.api.web.errors import ApiError
from taximeter.settler.books.stores import Connection


async def running_subscription(conn: Connection, org_id: str) -> Record:
    """The subscription, locked. Raises ApiError 404 if there is none, 409 if it has ended."""
    row = await conn.fetchrow(SUBSCRIPTIONS["find_subscription"], org_id)
    if row is None:
        raise no_subscription()
    if row["status"] == "canceled":
        raise is_canceled()
    return row


def is_canceled() -> ApiError:
    """The refusal where a subscription has ended, or ends."""
    return ApiError.of("subscription_canceled")


def no_subscription() -> ApiError:
    """The refusal where an organisation has no subscription to speak of."""
    return ApiError(404, "This organization has no subscription")
