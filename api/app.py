"""Puts the API together: services, routes, limits and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taximeter.api.access.cookies import keep_session_cookie
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.browser import files, signing_in
from taximeter.api.llm import lookup
from taximeter.api.llm import model_list as models
from taximeter.api.llm.callers import API_ROOT, CLIENTS_ROOT
from taximeter.api.llm.endpoint import SURFACE_OF, LlmEndpoint
from taximeter.api.llm.route import router as llm_router
from taximeter.api.prices.followed import make_pricer
from taximeter.api.processes.api_services import open_services
from taximeter.api.processes.exposed import serving_metrics
from taximeter.api.routes import (
    audit,
    books,
    corrections,
    credits,
    dashboards,
    exports,
    history,
    holds,
    invitations,
    invoices,
    keys,
    live,
    me,
    members,
    moves,
    organizations,
    overview,
    personal,
    plan_changes,
    prices,
    purchases,
    receivers,
    request_story,
    requests,
    subscriptions,
    system,
    terms,
    upstreams,
    usage,
    usage_series,
    user_billing,
)
from taximeter.api.running.dependencies import (
    bearer_scheme,
    cookie_scheme,
    known_parameters,
    within_limits,
)
from taximeter.api.running.services import Services
from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.config import ConfigError, load_routing
from taximeter.api.web.body_limit import BodyLimit
from taximeter.api.web.error_handlers import install_error_handlers
from taximeter.api.web.openapi import DESCRIPTION, TAGS, complete, serve_docs
from taximeter.api.web.outermost import Outermost
from taximeter.api.web.request_id import RequestId
from taximeter.api.web.strangers import NOTED_AS, NOTHING
from taximeter.meter.pricing import PriceFileError
from taximeter.meter.wire.release import release

_LLM_ROOTS: Final = (f"{API_ROOT}/", f"{CLIENTS_ROOT}/")


_ANYBODYS: Final = frozenset({"/docs", "/openapi.json", "/api/v1/system/status"})
"""Answered to whoever asks."""


def _surface_of(path: str) -> str:
    return "llm" if path.startswith(_LLM_ROOTS) else "admin"


class Application(FastAPI):
    """The admin API, with the LLM route in front of it, which does not go through the framework.

    refusal: why it does not start, where the operator has to mend that; else empty.
    """

    llm: LlmEndpoint
    refusal = ""
    entry: ASGIApp

    def __init__(self, strangers_per_minute: int, **options: Any) -> None:
        super().__init__(**options)
        # Around everything that the framework adds, its last resort for errors included.
        self._with_request_id = RequestId(super().__call__)
        self.outermost = Outermost(
            self._serve,
            strangers_per_minute=strangers_per_minute,
            user_header=b"x-user-id",
            routes=SURFACE_OF,
            surface_of=_surface_of,
        )
        self.entry = self.outermost

    def openapi(self) -> dict[str, Any]:
        """The document with refusals and examples, made once."""
        if self.openapi_schema is None:
            complete(super().openapi())  # Which keeps it where the next call finds it.
        assert self.openapi_schema is not None
        return self.openapi_schema

    def when_stopping(self) -> None:
        """The server takes no more connections: streams that have no end of their own end."""
        services: Services | None = getattr(self.state, "services", None)
        if services is not None:
            services.looks.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.entry(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = self._in_one_line(send)
        if scope["type"] == "http":
            keep_session_cookie(scope)
            if scope["path"] in _ANYBODYS or scope["path"].startswith("/docs/"):
                scope[NOTED_AS] = NOTHING
        if scope["type"] == "http" and scope["path"] in SURFACE_OF and scope["method"] == "POST":
            await self.llm(scope, receive, send)
        else:
            await self._with_request_id(scope, receive, send)

    def _in_one_line(self, send: Send) -> Send:
        """Say in one line, and not by a traceback, what an operator has to mend before a start."""

        async def said(message: Message) -> None:
            if self.refusal and message["type"] == "lifespan.startup.failed":
                message = {**message, "message": self.refusal}
            await send(message)

        return said


@cache
def shared_routes() -> list[BaseRoute]:
    """Every route with its guards. None of them knows its application: what FastAPI works out about
    a route when it is asked for first serves every application of the process.
    """
    made = APIRouter()
    made.include_router(system.router)
    schemes = [Depends(bearer_scheme), Depends(cookie_scheme)]  # For the OpenAPI document alone.
    guards = [*schemes, Depends(known_parameters)]
    for module in (
        subscriptions,
        plan_changes,
        organizations,
        purchases,
        credits,
        terms,
        moves,
        corrections,
        usage,
        usage_series,
        requests,
        exports,
        holds,
        live,
        request_story,
        user_billing,
        dashboards,
        overview,
        history,
        invoices,
        personal,
        members,
        invitations,
        keys,
        receivers,
        audit,
        books,
        prices,
        upstreams,
        me,
    ):
        made.include_router(module.router, dependencies=[*guards, Depends(within_limits)])
    for router in (llm_router, lookup.router, models.router):
        made.include_router(router, dependencies=guards)
    # The console's last: its page answers every address below /console that nobody else does.
    for router in (signing_in.router, files.router):
        made.include_router(router)
    return made.routes


def create_app(
    settings: ApiSettings | None = None, *, payments: PaymentVerifier | None = None
) -> Application:
    """The application. It opens its connections when it starts, and also starts while a store is
    away.

    When it stops, running charges are finished before connections are closed. `payments` is what
    verifies payments of organisations' own admins; without it only system admins add credits.
    Raises ConfigError for upstreams that cannot be used, PriceFileError for a price file.
    """
    settings = settings or ApiSettings()
    routing = load_routing(settings)
    pricer = make_pricer(settings, waits_for_editions=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                services = await stack.enter_async_context(
                    open_services(settings, routing, pricer, payments)
                )
                await stack.enter_async_context(serving_metrics(services, app.outermost))
            except (ConfigError, PriceFileError) as error:
                app.refusal = str(error)
                raise
            app.state.services = services
            if services.tracing is not None:
                from taximeter.api.web.traced import TracedRequests

                app.entry = TracedRequests(app.outermost, services.tracing, SURFACE_OF)
            yield

    app = Application(
        settings.strangers_per_minute,
        title="Taximeter",
        version=release(),
        summary="Credits for LLM requests: held before, charged after, settled and proved.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        routes=list(shared_routes()),
        redirect_slashes=False,
        docs_url=None,  # The framework's own page loads its scripts from elsewhere.
        redoc_url=None,
        # The framework's own spans and logs would tell paths and queries, which name people.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.outermost.log(settings.log_requests)
    app.llm = LlmEndpoint(app.state, settings.llm_body_bytes_max)
    install_error_handlers(app)
    serve_docs(app)
    app.add_middleware(
        BodyLimit,
        bytes_max=settings.admin_body_bytes_max,
        llm_bytes_max=settings.llm_body_bytes_max,
        llm_suffixes=tuple(SURFACE_OF),
    )
    return app
