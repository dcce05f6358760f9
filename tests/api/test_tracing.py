"""Traces of the LLM route, as a receiver of OTLP gets them: from the caller's context to the
upstream and to the batch that books the charge.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncpg import SerializationError
from asyncpg.transaction import Transaction
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pydantic import ValidationError
from support.otlp import Collector, Received, collecting
from support.provider import Asked, Provider, chat_answer
from support.world import BILLING, CHAT, SHARDS, World

from taximeter.api.llm.call_span import OPERATION_OF
from taximeter.api.openai.parse import SURFACES
from taximeter.api.processes.exposed import api_exposition
from taximeter.api.web.histograms import buckets_of
from taximeter.meter import InsufficientCredits
from taximeter.meter.wire.exemplars import Exemplars
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.status.spans import LINKS_MAX, Tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ABOVE = "00f067aa0ba902b7"
SECRET = "a prompt that nobody else may read"
KEY = "upstream-key-4711"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def context(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{ABOVE}-{flags}", "tracestate": "theirs=1"}


async def answers(asked: Asked) -> None:
    if asked.body.get("stream"):
        await asked.begin()
        await asked.text("one", finish="stop", usage=chat_answer()["usage"])
        await asked.end()
    elif "fail" in asked.content.decode():
        await asked.answer({"error": {"message": "not now"}}, "500 X")
    else:
        await asked.answer(chat_answer())


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(answers).serving() as opened:
        yield opened


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield made


@pytest.fixture
def api_options(
    collector: Collector, provider: Provider, request: pytest.FixtureRequest
) -> dict[str, Any]:
    return {
        "tracing": True,
        "upstream_base_url": provider.url,
        "upstream_name": "up",
        "upstream_api_key": KEY,
        **getattr(request, "param", {}),
    }


def settling(world: World) -> Tracing:
    return Tracing("settler", costs=False)


async def settle(world: World, tracing: Tracing) -> None:
    for shard in range(SHARDS):
        await settle_shard(world.settling, shard, booked=tracing.settled)


async def test_a_request_is_one_trace_from_the_caller_to_the_books(
    world: World, provider: Provider, collector: Collector
) -> None:
    await world.funded()
    message = [{"role": "user", "content": SECRET}]
    response = await world.chat(headers=context(), messages=message, max_tokens=50)
    assert response.status_code == 200, response.text
    spans = await collector.named(
        f"POST {CHAT}", "taximeter.hold", "chat gpt-4o-mini", "taximeter.commit"
    )
    mine = of_trace(collector.spans)
    assert len(mine) == 4
    top, call = spans[f"POST {CHAT}"], spans["chat gpt-4o-mini"]
    hold, commit = spans["taximeter.hold"], spans["taximeter.commit"]
    assert (top.parent_id, top.kind, top.service) == (ABOVE, "SERVER", "taximeter-api")
    assert {one.parent_id for one in (hold, call, commit)} == {top.span_id}
    request_id = response.headers["x-request-id"]
    assert {one.attributes["taximeter.request_id"] for one in mine} == {request_id}
    assert top.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "taximeter.request_id": request_id,
    }
    assert call.kind == "CLIENT"
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "up",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.usage.input_tokens": chat_answer()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": chat_answer()["usage"]["completion_tokens"],
        "server.address": "127.0.0.1",
        "server.port": int(provider.url.split(":")[2].split("/")[0]),
        "taximeter.model": "gpt-4o-mini",
        "taximeter.organization": "acme",
        "taximeter.request_id": request_id,
    }
    [asked] = provider.asked
    assert asked.headers["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert asked.headers["tracestate"] == "theirs=1"

    tracing = settling(world)
    await settle(world, tracing)
    settle_span = (await collector.named("taximeter.settle"))["taximeter.settle"]
    await tracing.aclose()
    assert settle_span.links == [(TRACE, commit.span_id)]
    assert settle_span.trace_id != TRACE
    assert settle_span.attributes["taximeter.events"] == 1
    assert settle_span.service == "taximeter-settler"
    [row] = await world.charges()
    booked = json.loads(row["metadata"])
    assert booked["traceparent"] == f"00-{TRACE}-{commit.span_id}-01"
    for word in (SECRET, KEY, "Bearer", "charged_credits"):
        assert word.encode() not in collector.raw, word
    assert not [one for one in collector.spans if "ann" in map(str, one.attributes.values())]
    await world.prove()


@pytest.mark.parametrize("api_options", [{"tracing_costs": True}], indirect=True)
async def test_a_stream_has_its_tokens_and_a_flag_tells_costs(
    world: World, collector: Collector
) -> None:
    await world.funded()
    response = await world.chat(headers=context(), stream=True)
    assert response.status_code == 200, response.text
    spans = await collector.named(f"POST {CHAT}", "chat gpt-4o-mini", "taximeter.commit")
    call = spans["chat gpt-4o-mini"].attributes
    assert call["gen_ai.request.stream"] is True
    assert call["gen_ai.response.time_to_first_chunk"] > 0
    assert call["gen_ai.usage.output_tokens"] == chat_answer()["usage"]["completion_tokens"]
    [row] = await world.charges()
    cost = row["credits_used"] / 1000
    assert call["taximeter.charged_credits"] == cost
    assert spans["taximeter.commit"].attributes["taximeter.charged_credits"] == cost


async def test_refusals_and_failures_are_named_and_not_told(
    world: World, collector: Collector
) -> None:
    await world.funded()
    failed = await world.chat(headers=context(), messages=[{"role": "user", "content": "fail"}])
    assert failed.status_code == 502
    broke = await world.chat("boss", headers=context())
    assert broke.status_code == 402
    unknown = await world.client.get(f"{BILLING}/credits/acme", headers=context())
    assert unknown.status_code == 401
    await world.client.get("/livez", headers=context())
    spans = await collector.until(lambda found: len(of_trace(found, "SERVER")) == 3)
    mine = of_trace(spans)
    [call] = [one for one in mine if one.name.startswith("chat")]
    assert call.is_error
    assert call.attributes["error.type"]
    assert "gen_ai.usage.input_tokens" not in call.attributes
    meter = await world.app.state.services.meters.get()
    with pytest.raises(InsufficientCredits):
        await meter.charge("acme", "ann", 10**9)
    charge = (await collector.named("taximeter.charge"))["taximeter.charge"]
    assert charge.is_error
    assert charge.attributes["error.type"] == "InsufficientCredits"
    servers = {
        one.attributes["http.response.status_code"]: one for one in mine if one.kind == "SERVER"
    }
    assert set(servers) == {401, 402, 502}
    assert servers[401].name == f"GET {BILLING}/credits/{{org_id}}"
    assert servers[401].attributes["taximeter.refused"] == "unauthorized"
    assert servers[502].is_error
    assert not servers[402].is_error
    assert b"not now" not in collector.raw


async def test_what_the_caller_does_not_sample_leaves_nothing_but_its_context(
    world: World, provider: Provider, collector: Collector
) -> None:
    await world.funded()
    assert (await world.chat(headers=context("00"))).status_code == 200
    [asked] = provider.asked
    _, trace, parent, flags = asked.headers["traceparent"].split("-")
    assert (trace, flags) == (TRACE, "00")
    assert parent != ABOVE
    [row] = await world.charges()
    assert "traceparent" not in json.loads(row["metadata"])
    # One that is sampled comes after it, so that what the other left would be here.
    assert (await world.chat()).status_code == 200
    await collector.named("taximeter.commit")
    assert not of_trace(collector.spans)


def test_an_exemplar_stands_in_the_bucket_of_its_own_time() -> None:
    """Also where the histogram has counted its call by a time that was a little shorter."""
    kept = Exemplars((0.1, 1.0))
    kept.keep(7, 0.2)
    first, second, last = buckets_of(("0.1", "1.0", "+Inf"), [1, 0, 0], kept)
    assert (first, last) == (("0.1", 1.0), ("+Inf", 1.0))
    assert second[:2] == ("1.0", 1.0)
    assert second[2].labels == {"trace_id": f"{7:032x}"}


async def test_times_have_exemplars_of_traces(world: World, collector: Collector) -> None:
    await world.funded()
    assert (await world.chat(headers=context())).status_code == 200
    exposition = api_exposition(world.app.state.services, world.app.outermost)
    body, content_type = await exposition.text(OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    told = {
        (sample.name, sample.labels.get("operation"))
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.labels == {"trace_id": TRACE}
    }
    assert {
        ("taximeter_http_request_seconds_bucket", None),
        ("taximeter_upstream_answer_seconds_bucket", None),
        ("taximeter_upstream_first_byte_seconds_bucket", None),
        ("taximeter_operation_seconds_bucket", "reserve"),
        ("taximeter_operation_seconds_bucket", "commit"),
    } <= told
    plain, _ = await exposition.text("text/plain")
    assert TRACE.encode() not in plain


async def test_a_batch_is_linked_to_so_many_requests_and_no_more(
    world: World, collector: Collector
) -> None:
    """Also where one request in a thousand is sampled: what is linked is seen with it."""
    await world.funded()
    meter = await world.app.state.services.meters.get()
    tracing = settling(world)
    await settle(world, tracing)
    await meter.charge_many([("acme", "ann", 1, f"r-{n}", None) for n in range(5)])
    with world.app.state.services.tracing.tracer.start_as_current_span("above") as span:
        trace = f"{span.get_span_context().trace_id:032x}"
        for n in range(LINKS_MAX + 5):
            await meter.charge("acme", "ann", 1, request_id=f"one-{n}")
    await settle(world, tracing)
    found = (await collector.named("taximeter.settle"))["taximeter.settle"]
    await tracing.aclose()
    assert len(found.links) == LINKS_MAX
    assert {trace_id for trace_id, _ in found.links[1:]} == {trace}
    assert found.attributes["taximeter.events"] == LINKS_MAX + 10
    await world.prove()


async def test_a_batch_whose_transaction_fails_is_told_of_when_it_is_booked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.funded()
    await world.settle()
    meter = await world.app.state.services.meters.get()
    await meter.charge("acme", "ann", 1, request_id="r")
    end, mine, order = Transaction.__aexit__, asyncio.current_task(), []

    async def ending(transaction: Transaction, kind: Any, error: Any, trace: Any) -> bool | None:
        if transaction._nested or asyncio.current_task() is not mine or kind is not None:
            return await end(transaction, kind, error, trace)
        order.append("commit")
        if order == ["commit"]:
            undone = SerializationError("this one is not committed")
            await end(transaction, type(undone), undone, None)
            raise undone
        return await end(transaction, kind, error, trace)

    monkeypatch.setattr(Transaction, "__aexit__", ending)
    await settle_shard(
        world.settling,
        shard_of("acme", SHARDS),
        booked=lambda run, done, started: order.append(f"{done.settled} booked"),
    )
    assert order[:3] == ["commit", "commit", "1 booked"], "the first was undone"
    assert order.count("1 booked") == 1


class Stuck(SpanExporter):
    """Takes one batch, and no further one before it is closed."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.closed = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.taken.set()
        self.closed.wait(60)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.closed.set()


async def test_a_receiver_that_hangs_stops_nobody_and_what_has_no_room_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    exporter = Stuck()
    tracing = Tracing("api", costs=False, exporter=exporter)
    tracing.tracer.start_span("first").end()
    assert exporter.taken.wait(60)
    for _ in range(100):
        tracing.tracer.start_span("more").end()
    figures = {
        (sample.name, *sample.labels.values()): sample.value
        for family in tracing.families()
        for sample in family.samples
    }
    assert figures["taximeter_trace_spans_waiting", "waiting"] == 8
    assert figures["taximeter_trace_spans_waiting", "max"] == 8
    assert figures["taximeter_trace_spans_total", "dropped"] == 92
    assert figures["taximeter_trace_spans_total", "exported"] == 0
    exporter.closed.set()
    await tracing.aclose()


@pytest.mark.parametrize("status", [503, 400])
async def test_requests_succeed_where_the_receiver_refuses(
    world: World, collector: Collector, status: int
) -> None:
    collector.status = status
    await world.funded()
    for _ in range(3):
        assert (await world.chat(headers=context())).status_code == 200
    assert len(await world.charges()) == 3
    await world.prove()


def test_every_surface_has_its_operation() -> None:
    assert set(OPERATION_OF) == {surface.path for surface in SURFACES}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf",
        ),
        ("OTEL_TRACES_EXPORTER", "jaeger", "OTEL_TRACES_EXPORTER must be otlp or none"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=said):
        StoreSettings(tracing=True)
    assert not StoreSettings().tracing


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    """FastAPI imports the API of OpenTelemetry itself, in the process of the API; beyond that there
    is nothing anywhere.
    """
    code = (
        "import sys, {modules}\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'google.protobuf', 'requests',"
        " 'taximeter.meter.traced', 'taximeter.settler.status.spans', 'taximeter.api.web.traced')\n"
        "print([one for one in sys.modules if one.startswith(heavy)])\n"
        "print(any(one.startswith('opentelemetry') for one in sys.modules))"
    )
    for modules, with_fastapi in (
        ("taximeter.meter, taximeter.settler.worker.main", False),
        ("taximeter.api.app, taximeter.api.processes.sidecar", True),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(modules=modules)],
            capture_output=True,
            text=True,
            check=True,
        )
        heavy, found = done.stdout.splitlines()
        assert heavy == "[]", modules
        assert with_fastapi or found == "False", modules


def of_trace(spans: list[Received], kind: str = "") -> list[Received]:
    return [one for one in spans if one.trace_id == TRACE and kind in one.kind]
