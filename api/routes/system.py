"""Shows the state of the system, for load balancers and people."""

from __future__ import annotations

from fastapi import APIRouter, Response

from taximeter.api.running.dependencies import ServicesDep
from taximeter.api.running.installation_watch import REASON
from taximeter.api.web.errors import from_meter
from taximeter.meter import MeterError
from taximeter.settler.status.health import PartHealth, SystemHealth

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
    response.status_code = health.http_status
    response.headers["Cache-Control"] = "no-store"
    return health


@router.get("/livez", include_in_schema=False)
async def get_livez() -> PartHealth:
    """Always 200: a process that cannot answer is to be started again."""
    return PartHealth(status="ok")


@router.get("/readyz", include_in_schema=False)
async def get_readyz(services: ServicesDep, response: Response) -> PartHealth:
    """200 while this process can hold and charge: Redis answers and a shard is open. Postgres may
    be away, since users and keys that are known go on. `another_installation`: the database may be
    a copy, and nothing is charged until an operator has said what it is. `degraded` names the
    shards that are closed or away, the disks and replicas that do not confirm what is written,
    where answers wait for them, and a price list that is old or cannot be read.
    """
    response.headers["Cache-Control"] = "no-store"
    if services.installation.stopped:
        response.status_code = 503
        return PartHealth(status="down", reason=REASON)
    try:
        meter = await services.meters.get()
        await meter.ready()
        missing = await meter.missing()
    except MeterError as error:
        response.status_code = 503
        return PartHealth(status="down", reason=from_meter(error).code.lower())
    alarm = services.price_age.word()
    if missing or alarm:
        # Another process would miss the same, so this one is not taken out.
        reasons = [*missing, *([f"prices_{alarm}"] if alarm else [])]
        return PartHealth(status="degraded", reason="; ".join(reasons))
    return PartHealth(status="ok")
