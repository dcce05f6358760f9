"""Finds the upstreams that a model goes to, in their order."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fnmatch import translate

from taximeter.api.upstreams.config import RouteConfig, RoutingConfig
from taximeter.api.upstreams.upstream import Upstream
from taximeter.api.web.errors import ApiError
from taximeter.meter.pricing.identity import host_of, identify
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.settler.status.health import UpstreamHealth

MODELS_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """One place that can answer a request. `model` is its name there, `price_as` the name whose
    price is charged, at `provider` if one is named; `power_level` is what the route sells it as.
    """

    upstream: Upstream
    model: str
    price_as: str
    power_level: str | None = None
    provider: str | None = None


class Router:
    """The routes over open upstreams."""

    def __init__(self, config: RoutingConfig, upstreams: Mapping[str, Upstream]) -> None:
        self.upstreams = upstreams
        self._routes = [
            (re.compile("|".join(map(translate, route.models))), route) for route in config.routes
        ]
        self._known: BoundedCache[str, tuple[Target, ...]] = BoundedCache(MODELS_REMEMBERED_MAX)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: RoutingConfig) -> AsyncIterator[Router]:
        """A client for each upstream; their connections are closed at the end."""
        async with AsyncExitStack() as stack:
            upstreams = {
                one.name: await stack.enter_async_context(Upstream.open(one))
                for one in config.upstreams
            }
            yield cls(config, upstreams)

    def targets(self, model: str) -> tuple[Target, ...]:
        """Where this model goes, in order. Raises ApiError 404 when no route has it. Remembers a
        bounded number, since callers choose the names.
        """
        found = self._known.get(model)
        if found is None:
            found = self._find(model)
            self._known.keep(model, found)
        if not found:
            raise ApiError.of("model_not_found", details={"model": model}, model=model)
        return found

    def named_models(self) -> list[str]:
        """The models that routes name in full."""
        return [
            name
            for _, route in self._routes
            for name in route.models
            if not any(sign in name for sign in "*?[")
        ]

    @property
    def routes(self) -> list[RouteConfig]:
        """As they were configured, in their order."""
        return [route for _, route in self._routes]

    def _find(self, model: str) -> tuple[Target, ...]:
        for pattern, route in self._routes:
            if pattern.match(model):
                return self._targets_of(route, model)
        return ()

    def _targets_of(self, route: RouteConfig, model: str) -> tuple[Target, ...]:
        targets = []
        for one in route.targets:
            there = one.model or model
            upstream = self.upstreams[one.upstream]
            price_as, provider = _sold_as(upstream, there, one.price_as)
            targets.append(Target(upstream, there, price_as, route.power_level, provider))
        return tuple(targets)


def _sold_as(upstream: Upstream, model: str, price_as: str | None) -> tuple[str, str | None]:
    """Under which name, and at whom, a model of this upstream has its price. A `price_as` that
    names another host is taken by its word.
    """
    name, provider = price_as or model, upstream.provider
    if provider is None:
        return name, None
    if price_as is not None and identify(price_as).provider not in ("", host_of(provider)):
        return name, None
    of = identify(name, provider)
    if upstream.region is not None and not of.region:
        name = f"{upstream.region}/{of.model}"
    return name, provider


def upstream_health(router: Router | None) -> UpstreamHealth:
    """How the providers are, by their last answers: nothing is sent to them for this."""
    if router is None:
        return UpstreamHealth(status="degraded", reason="not_configured")
    found = {name: upstream.health for name, upstream in router.upstreams.items()}
    worst = next((word for word in found.values() if word != "ok"), None)
    return UpstreamHealth(
        status="ok" if worst is None else "degraded", reason=worst, upstreams=found
    )
