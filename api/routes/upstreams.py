"""Shows system admins where requests go, and how the providers are."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from taximeter.api.running.dependencies import CallerFirstRoute, ServicesDep, SystemAdminDep

router = APIRouter(
    prefix="/api/v1/org-billing/system", tags=["upstreams"], route_class=CallerFirstRoute
)


class UpstreamView(BaseModel):
    """One provider. `health` is what its last answers were: `ok`, `resting`, `unreachable`,
    `refuses_us` or `fails`; nothing is sent for this. `connections`: used, allowed and waited for.
    """

    name: str
    host: str
    provider: str | None
    region: str | None
    health: str
    connections: dict[str, int]


class TargetView(BaseModel):
    """One place of a route: the upstream, the model's name there, and the name it is priced by;
    null where these are the name that was asked for.
    """

    upstream: str
    model: str | None
    price_as: str | None


class RouteView(BaseModel):
    """Models by name or pattern, and the places that are asked, in their order."""

    models: list[str]
    power_level: str | None
    targets: list[TargetView]


class Upstreams(BaseModel):
    """All providers and routes of this process; none where no upstream is configured."""

    upstreams: list[UpstreamView]
    routes: list[RouteView]


@router.get("/upstreams", summary="Providers, their health, and which models go where")
async def get_upstreams(admin: SystemAdminDep, services: ServicesDep) -> Upstreams:
    """As this process sees them. The first route that has a model decides."""
    if services.router is None:
        return Upstreams(upstreams=[], routes=[])
    return Upstreams(
        upstreams=[
            UpstreamView(
                name=name,
                host=one.host,
                provider=one.provider,
                region=one.region,
                health=one.health,
                connections=one.connections,
            )
            for name, one in services.router.upstreams.items()
        ],
        routes=[
            RouteView(
                models=list(route.models),
                power_level=route.power_level,
                targets=[
                    TargetView(upstream=one.upstream, model=one.model, price_as=one.price_as)
                    for one in route.targets
                ],
            )
            for route in services.router.routes
        ],
    )
