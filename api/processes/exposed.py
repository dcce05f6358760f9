"""Puts together what /metrics says of an API and of a sidecar."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from taximeter.api.llm.services import LlmServices
from taximeter.api.running.meter_metrics import meter_families
from taximeter.api.running.price_metrics import price_families
from taximeter.api.upstreams.config import ConfigError
from taximeter.api.upstreams.router import Router
from taximeter.api.upstreams.upstream_times import UPSTREAM_BUCKETS_S, Durations
from taximeter.api.web.histograms import buckets_of
from taximeter.api.web.outermost import Outermost
from taximeter.api.web.refusal_metrics import refusal_families
from taximeter.settler.status.metrics import Exposition, listening, metrics_route

logger = logging.getLogger("taximeter.api")

_BOUNDS: Final = (*(f"{bound:g}" for bound in UPSTREAM_BUCKETS_S), "+Inf")


@asynccontextmanager
async def serving_metrics(services: LlmServices, outermost: Outermost) -> AsyncIterator[None]:
    """Answer /metrics on a port of its own until the block ends; nothing without a port. Raises
    ConfigError when nobody can listen there.
    """
    settings = services.settings
    if settings.metrics_port is None:
        yield
        return
    exposition = api_exposition(services, outermost)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(exposition.watching_loop())
        host, port = settings.metrics_host, settings.metrics_port
        try:
            await stack.enter_async_context(metrics_port(exposition, host, port))
        except OSError as error:
            raise ConfigError(
                f"TAXIMETER_METRICS_PORT: nobody can listen on {host}:{port}: {error.strerror}"
            ) from error
        yield


@asynccontextmanager
async def metrics_port(exposition: Exposition, host: str, port: int) -> AsyncIterator[None]:
    """Answer /metrics there, and nothing else, until the block ends. Raises OSError when nobody can
    listen there.
    """
    app = web.Application()
    app.add_routes([metrics_route(exposition)])
    async with listening(app, host, port):
        logger.info("metrics: http://%s:%d/metrics", host, port)
        yield


def api_exposition(services: LlmServices, outermost: Outermost) -> Exposition:
    """Everything that an API tells."""
    exposition = Exposition("api", services.health)
    exposition.add(outermost.times.families)
    exposition.add(lambda: refusal_families(outermost.refusals, "admin", "llm"))
    exposition.add(lambda: meter_families(services.meters.current))
    exposition.add(lambda: _llm_families(services))
    exposition.add(lambda: _upstream_families(services.router))
    exposition.add(lambda: price_families(services.pricer))
    exposition.watch_redis(services.stores.redis)
    exposition.watch_pool("api", services.pool)
    exposition.watch_pool("api-keys", services.keys.pool)
    if services.reports.replica is not None:
        exposition.watch_pool("api-reports", services.reports.replica)
    if services.tracing is not None:
        exposition.add(services.tracing.families)
    return exposition


def _upstream_families(router: Router | None) -> Iterator[Metric]:
    """Of each upstream of the operator's configuration."""
    requests = CounterMetricFamily(
        "taximeter_upstream_requests",
        "Requests to upstreams, by how they were answered; a try again counts again.",
        labels=("upstream", "outcome"),
    )
    connections = GaugeMetricFamily(
        "taximeter_upstream_connections",
        "Connections to the upstream that are used, those that may be, and requests that wait.",
        labels=("upstream", "state"),
    )
    resting = GaugeMetricFamily(
        "taximeter_upstream_resting",
        "1 while the upstream is not asked because it could not be reached again and again.",
        labels=("upstream",),
    )
    first_byte = HistogramMetricFamily(
        "taximeter_upstream_first_byte_seconds",
        "From the request to the head of the upstream's answer.",
        labels=("upstream",),
    )
    whole = HistogramMetricFamily(
        "taximeter_upstream_answer_seconds",
        "From the request to the end of the upstream's answer.",
        labels=("upstream",),
    )
    for name, upstream in ({} if router is None else router.upstreams).items():
        for outcome, number in upstream.times.outcomes.items():
            requests.add_metric((name, outcome), number)
        for state, number in upstream.connections.items():
            connections.add_metric((name, state), number)
        resting.add_metric((name,), upstream.rest.rests)
        _add(first_byte, name, upstream.times.first_byte)
        _add(whole, name, upstream.times.whole)
    yield from (requests, connections, resting, first_byte, whole)


def _add(family: HistogramMetricFamily, name: str, durations: Durations) -> None:
    counts = buckets_of(_BOUNDS, durations.buckets, durations.exemplars)
    family.add_metric((name,), counts, durations.seconds)


def _llm_families(services: LlmServices) -> Iterator[Metric]:
    room = GaugeMetricFamily(
        "taximeter_llm_requests",
        "LLM requests in progress in this process, and how many there may be.",
        labels=("state",),
    )
    room.add_metric(("open",), services.requests.used)
    room.add_metric(("max",), services.requests.total)
    yield room
    bodies = GaugeMetricFamily(
        "taximeter_llm_bodies_bytes",
        "Bytes of bodies of LLM requests in this process, and how many there may be.",
        labels=("state",),
    )
    bodies.add_metric(("open",), services.bodies.used)
    bodies.add_metric(("max",), services.bodies.total)
    yield bodies
    yield GaugeMetricFamily(
        "taximeter_pending_charges",
        "Charges that are owed and not in Redis yet, in this process and its file.",
        len(services.keepers.pending),
    )
