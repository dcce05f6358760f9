"""Makes a span of each request, below the context that its caller brings, around everything else
that handles it.

It says the method, the pattern of the path, the status, why it was refused and the id that the
answer names: no path, no query, no header and no body, which name people or are theirs.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taximeter.api.web.outermost import QUIET, Outermost, route_of
from taximeter.api.web.request_times import METHODS
from taximeter.meter.traced import current_trace_id
from taximeter.meter.wire.http_refusals import REFUSED
from taximeter.settler.status.spans import Tracing

_OTHER_METHOD: Final = "_OTHER"
"""What the conventions call a method that is none of those known."""


class TracedRequests:
    """Plain ASGI. Requests of probes and scrapes have no spans. The times that `inner` counts have
    exemplars from now on. `routes`: paths that are patterns of their own.
    """

    def __init__(self, inner: Outermost, tracing: Tracing, routes: Container[str]) -> None:
        self._app: ASGIApp = inner
        self._tracing = tracing
        self._routes = routes
        self.body_bytes_max = inner.body_bytes_max
        inner.times.trace_id = current_trace_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else _OTHER_METHOD
        with self._tracing.tracer.start_as_current_span(
            method,
            context=self._tracing.context_of(scope["headers"]),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if not span.is_recording():
                await self._app(scope, receive, send)
                return
            status = 0

            async def noting_send(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    for name, value in message.get("headers", ()):
                        if name.lower() == b"x-request-id":
                            span.set_attribute("taximeter.request_id", value.decode("latin-1"))
                await send(message)

            try:
                await self._app(scope, receive, noting_send)
            finally:
                if (route := route_of(scope, self._routes)) is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if status:
                    span.set_attribute("http.response.status_code", status)
                if (cause := scope.get(REFUSED)) is not None:
                    span.set_attribute("taximeter.refused", str(cause))
                if status >= 500:
                    span.set_attribute("error.type", str(cause or status))
                    span.set_status(Status(StatusCode.ERROR))
