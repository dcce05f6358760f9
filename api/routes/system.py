"""The state of the system, for load balancers and people."""

from __future__ import annotations

from fastapi import APIRouter, Response

from taximeter.api.deps import ServicesDep
from taximeter.api.health import SystemHealth

router = APIRouter(tags=["system"])


@router.get(
    "/api/v1/system/status",
    summary="Health of each part; no login",
    responses={503: {"model": SystemHealth, "description": "A part is down or behind"}},
)
async def get_status(services: ServicesDep, response: Response) -> SystemHealth:
    """200 while requests are served and settled, 503 when a part that this needs is down or far
    behind.
    """
    health = await services.health.get()
    if health.status == "down" or health.settler.status != "ok":
        response.status_code = 503
    response.headers["Cache-Control"] = "no-store"
    return health
