"""Answers over HTTP how the settler is, for whoever supervises it, and what it does, for
Prometheus. Off unless it has a port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from taximeter.settler.status.health import HealthCheck, PartHealth
from taximeter.settler.status.heartbeats import IDLE_S, IN_TIME
from taximeter.settler.status.metrics import NO_STORE, Exposition, listening, metrics_route
from taximeter.settler.worker.loop_activity import LoopActivity

_DEAD_S: Final = 120.0
"""A loop of this process without a sign of life for this long: it is to be started again."""

log = structlog.get_logger("taximeter.settler")


def make_app(
    health: HealthCheck, activity: LoopActivity, exposition: Exposition
) -> web.Application:
    """`/livez`, `/readyz`, `/api/v1/system/status` and `/metrics`; none of them needs a login."""

    async def livez(request: web.Request) -> web.Response:
        dead = [
            name for name, idle_s, *_ in activity.signs() if name in IN_TIME and idle_s > _DEAD_S
        ]
        return _answer(PartHealth(status="down", reason=f"stuck:{dead[0]}") if dead else None)

    async def readyz(request: web.Request) -> web.Response:
        """Ready: every loop that must not be late goes round, and did what it should."""
        begun = set()
        for name, idle_s, _, trouble in activity.signs():
            begun.add(name)
            if name in IN_TIME and (trouble or idle_s > IDLE_S):
                word = f"failing:{name}" if trouble else f"stuck:{name}"
                return _answer(PartHealth(status="down", reason=word))
        if not begun.issuperset(IN_TIME):
            return _answer(PartHealth(status="down", reason="waiting_for_postgres"))
        return _answer(None)

    async def status(request: web.Request) -> web.Response:
        found = await health.get()
        return web.json_response(
            text=found.model_dump_json(), status=found.http_status, headers=NO_STORE
        )

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/api/v1/system/status", status)
    app.add_routes([metrics_route(exposition)])
    return app


def _answer(trouble: PartHealth | None) -> web.Response:
    part = trouble or PartHealth(status="ok")
    return web.json_response(
        text=part.model_dump_json(), status=200 if trouble is None else 503, headers=NO_STORE
    )


@asynccontextmanager
async def serving(
    host: str,
    port: int | None,
    health: HealthCheck,
    activity: LoopActivity,
    exposition: Exposition,
) -> AsyncIterator[None]:
    """Listen until the block ends; nothing without a port. Raises OSError when it is taken."""
    if port is None:
        yield
        return
    async with listening(make_app(health, activity, exposition), host, port):
        log.info("listening", host=host, port=port)
        yield
