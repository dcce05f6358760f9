"""Shows what running requests hold, as it stands in Redis."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from redis.exceptions import NoPermissionError, RedisError

from taximeter.api.billing.open_holds import OpenHold, page_of_holds
from taximeter.api.running.dependencies import CallerFirstRoute, MemberDep, ServicesDep, own_user
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import UserId
from taximeter.api.web.paging import NEXT, CursorParam, LimitParam, cursor_of, read_cursor
from taximeter.meter import StoreUnavailable

logger = logging.getLogger("taximeter.api")

router = APIRouter(prefix="/api/v1/org-billing", tags=["usage"], route_class=CallerFirstRoute)

PLACES = 2**64


class HoldList(BaseModel):
    """Some of the open holds. A page has about `limit` of them, and may have none although `next`
    leads on.
    """

    as_of: datetime
    holds: list[OpenHold]
    limit: int
    next: str | None = Field(description=NEXT)


@router.get("/credits/{org_id}/holds", summary="What running requests hold")
async def list_holds(
    access: MemberDep,
    services: ServicesDep,
    user_id: Annotated[UserId | None, Query()] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> HoldList:
    """Live, from Redis. Admins see everybody's, members their own. 503 while Redis is away."""
    (text,) = read_cursor(cursor, str)
    place = 0
    if text is not None:
        if not (text.isascii() and text.isdigit() and 0 < int(text) < PLACES):
            raise ApiError(400, "cursor must be the `next` of a page", details={"field": "cursor"})
        place = int(text)
    user = own_user(access, user_id)
    try:
        page = await page_of_holds(services.stores, access.org_id, user, place, limit)
    except NoPermissionError as error:
        logger.warning("holds cannot be listed: %s; see `taximeter acl --role api`", error)
        raise ApiError(503, "The Redis user of this API may not list holds") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(str(error)) from error
    following = None if page.place is None else cursor_of(page.place)
    return HoldList(as_of=page.as_of, holds=page.holds, limit=limit, next=following)
