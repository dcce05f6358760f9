"""A receiver of OTLP over HTTP, which reads what comes as a collector does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Received:
    """One span, in plain words."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    service: str
    is_error: bool
    seconds: float


@dataclass
class Collector:
    """`raw` is everything that came, as bytes; `status` what is answered."""

    url: str = ""
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    raw: bytes = b""
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """All spans, as soon as they are enough."""
        async with asyncio.timeout(60):
            while not enough(self.spans):
                self._came.clear()
                await self._came.wait()
        return self.spans

    async def named(self, *names: str) -> dict[str, Received]:
        """The last span of each name, once all have come."""
        spans = await self.until(lambda found: set(names) <= {one.name for one in found})
        return {one.name: one for one in spans}

    async def take(self, request: web.Request) -> web.Response:
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        body = await request.read()  # Of aiohttp, which has decompressed it.
        if self.status == 200:
            self.raw += body
            self.spans += read(body)
            self._came.set()
        return web.Response(status=self.status, content_type="application/x-protobuf")


def read(body: bytes) -> list[Received]:
    message = ExportTraceServiceRequest.FromString(body)
    found = []
    for of_resource in message.resource_spans:
        resource = values(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            assert scope.scope.name == "taximeter"
            found += [received(span, resource["service.name"]) for span in scope.spans]
    return found


def received(span: Span, service: str) -> Received:
    return Received(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        values(span.attributes),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        service,
        span.status.code == 2,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Take spans on a free port of the loopback until the block ends."""
    collector = Collector()
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/{path:.*}", collector.take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _, port, *_ = runner.addresses[0]
        collector.url = f"http://127.0.0.1:{port}"
        yield collector
    finally:
        await runner.cleanup()
