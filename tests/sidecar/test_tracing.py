"""Traces of the sidecar and of the client in a gateway: the caller's context goes to the charge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis
from support.shard import ScriptedShard
from support.sidecar import FUNDS

from taximeter.api.web.outermost import Outermost
from taximeter.api.web.traced import TracedRequests
from taximeter.meter import Charge, Hold, InvalidRequest, Meter, Receipt, Reserve, Usage
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.sidecar import SidecarClient
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.sidecar.app import ROUTES
from taximeter.meter.traced import TracedMeter
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX
from taximeter.meter.wire.traceparent import sampled_in
from taximeter.settler.status.spans import Tracing

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def tracing(exporter: InMemorySpanExporter) -> AsyncIterator[Tracing]:
    made = Tracing("sidecar", costs=False, exporter=exporter)
    yield made
    await made.aclose()


@pytest.fixture
async def meter(redis_url: str, shard: ScriptedShard, tracing: Tracing) -> AsyncIterator[Meter]:
    async with await tracing.connect_meter(redis_url) as made:
        yield made


async def booked(redis: Redis) -> list[tuple[str, dict[str, object]]]:
    """Kind and metadata of every event."""
    found = []
    for _, fields in await redis.xrange("{tm:0}:events"):
        for line in fields[b"v1"].decode().split("\n"):
            kind, *_, payload = line.split("\t")
            found.append((kind, json.loads(payload)["meta"] if payload else {}))
    return found


async def test_the_logger_of_litellm_passes_its_trace_on(
    redis: Redis, meter: Meter, pricer: Pricer, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    from support.world import serving

    entry = TracedRequests(
        Outermost(create_sidecar(meter, pricer=pricer), "none", routes=ROUTES), tracing, ROUTES
    )
    trace_of_caller = {"traceparent": f"00-{TRACE}-{ABOVE}-01"}
    ids = {"org_id": "acme", "user_id": "ann", "request_id": "r"}
    usage = {"usage": {"service_name": "chat"}}
    async with serving(entry) as url:
        client = SidecarClient(LiteLLMSettings(sidecar_url=url))
        held = {**ids, "amount_millicredits": 10, **usage}
        charged = {**ids, "amount_millicredits": 5, **usage}
        assert (await client.call("reserve", held, trace_of_caller)).status == 200
        assert (await client.call("commit", charged, trace_of_caller)).status == 200
        await client._session.close()
    tracing._provider.force_flush()
    spans = exporter.get_finished_spans()
    assert {span.name for span in spans} >= {"POST /v1/reserve", "POST /v1/commit"}
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    [(kind, about)] = await booked(redis)
    assert kind == "commit"
    assert str(about["traceparent"]).startswith(f"00-{TRACE}-")


async def test_a_charge_by_http_carries_its_callers_context(
    redis: Redis, meter: Meter, pricer: Pricer, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    from support.sidecar import calling
    from support.world import serving

    sidecar = create_sidecar(meter, pricer=pricer)
    entry = TracedRequests(Outermost(sidecar, "none", routes=ROUTES), tracing, ROUTES)
    assert entry.body_bytes_max == sidecar.body_bytes_max
    async with serving(entry) as url, calling(url) as caller:
        caller.client.headers["traceparent"] = f"00-{TRACE}-{ABOVE}-01"
        await caller.ok(
            "reserve", amount_millicredits=10, request_id="r", usage={"service_name": "chat"}
        )
        await caller.ok("commit", amount_millicredits=5, request_id="r")
        await caller.ok("charge", amount_millicredits=5, request_id="c")
        charge = {"op": "charge", "amount_millicredits": 1}
        answers = await caller.batch(charge, {**charge, "usage": {"service_name": "chat"}})
        assert [one["status"] for one in answers] == [200, 200]
        assert await caller.balance() == (FUNDS - 12, 0)
    tracing._provider.force_flush()
    spans = {f"{span.context.span_id:016x}": span for span in exporter.get_finished_spans()}
    events = await booked(redis)
    assert [kind for kind, _ in events] == ["commit", "charge", "charge", "charge"]
    expected = ["taximeter.hold", "taximeter.charge", "taximeter.batch", "taximeter.batch"]
    for (_, metadata), name in zip(events, expected, strict=True):
        _, trace_id, span_id, flags = str(metadata["traceparent"]).split("-")
        assert (trace_id, flags) == (TRACE, "01")
        assert spans[span_id].name == name
    tops = [span for span in spans.values() if span.kind is trace.SpanKind.SERVER]
    assert {span.name for span in tops} == {
        *("POST /v1/reserve", "POST /v1/commit", "POST /v1/charge", "POST /v1/batch"),
        "GET /v1/balance",
    }
    assert {f"{span.parent.span_id:016x}" for span in tops if span.parent} == {ABOVE}


async def test_many_at_once_are_traced_as_one_batch(
    redis: Redis, meter: Meter, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    """Each is booked with the context of the batch that it was held or charged in."""
    usage = Usage("llm_inference", "gpt", {"model": "gpt"})
    with tracing.tracer.start_as_current_span("the gateway's"):
        held = await meter.reserve_many(
            [
                Reserve("acme", "ann", 10, "a", usage=usage),
                ("acme", "ann", 10, "b", 60.0, usage, ""),
                Reserve("acme", "ann", 10, "c"),
                Reserve("acme", "ann", -1, "d", usage=usage),
            ]
        )
        told = await meter.charge_many([Charge("acme", "ann", 1, "e", usage)])
    assert [isinstance(one, Hold) for one in held] == [True, True, True, False]
    assert isinstance(told[0], Receipt)
    with pytest.raises(InvalidRequest):
        await meter.reserve_many([("acme", "ann", 1)])  # type: ignore[list-item]
    # Outside of any span of the gateway's, and without a usage of their own.
    for one in held[:3]:
        assert isinstance(one, Hold)
        await Meter.commit(meter, "acme", "ann", one.request_id, 1)
    tracing._provider.force_flush()
    batches = [span for span in exporter.get_finished_spans() if span.name == "taximeter.batch"]
    assert [(span.attributes or {})["taximeter.operations"] for span in batches[:2]] == [4, 1]
    contexts = [f"{span.context.span_id:016x}" for span in batches]
    booked_by = [
        str(about.get("traceparent", "")).split("-")[2:3] for _, about in await booked(redis)
    ]
    assert booked_by == [[contexts[1]], [contexts[0]], [contexts[0]], []]


async def test_a_gateway_has_spans_below_its_own(
    redis: Redis, meter: Meter, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    assert isinstance(meter, TracedMeter)
    usage = Usage("llm_inference", "gpt", {"model": "gpt"})
    with tracing.tracer.start_as_current_span("the gateway's"):
        async with await meter.reserve("acme", "ann", 50, request_id="a", usage=usage) as hold:
            hold.spent(20, usage)
        async with await meter.reserve("acme", "ann", 50, request_id="b"):
            pass
        # What a charge is for comes before its trace, and theirs before ours.
        full = Usage("x", "y", {"k": "v" * (PAYLOAD_BYTES_MAX - 60)})
        await meter.charge("acme", "ann", 1, request_id="c", usage=full)
        theirs = Usage("x", "y", {"traceparent": "theirs"})
        await meter.charge("acme", "ann", 1, request_id="d", usage=theirs)
    tracing._provider.force_flush()
    named = {
        (span.name, span.attributes["taximeter.request_id"]): span
        for span in exporter.get_finished_spans()
        if span.attributes and "taximeter.request_id" in span.attributes
    }
    [above] = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert {span.parent.span_id for span in named.values() if span.parent} == {
        above.context.span_id
    }
    assert set(named) == {
        *(("taximeter.hold", "a"), ("taximeter.commit", "a"), ("taximeter.hold", "b")),
        *(("taximeter.release", "b"), ("taximeter.charge", "c"), ("taximeter.charge", "d")),
    }
    (_, first), (_, second), (_, third) = await booked(redis)
    commit = named["taximeter.commit", "a"].context
    text = f"00-{commit.trace_id:032x}-{commit.span_id:016x}-01"
    assert first == {"traceparent": text, "model": "gpt"}
    assert "traceparent" not in second
    assert third == {"traceparent": "theirs"}


def test_only_a_member_of_the_metadata_is_taken_for_a_context() -> None:
    text = f"00-{TRACE}-{ABOVE}-01"
    own = '{"type":"x","name":"y","meta":{"traceparent":"%s"}}'
    context = (int(TRACE, 16), int(ABOVE, 16))
    assert sampled_in((own % text).encode(), 8) == [context]
    said = Usage("x", "y", {"said": f'"traceparent":"{text}"'}).payload()
    assert text in said
    for other in (
        said,
        own % text.replace("-01", "-00"),
        own % f"00-{'0' * 32}-{ABOVE}-01",
        own % text.replace("00-", "ff-", 1),
        own % text.upper(),
    ):
        assert sampled_in(other.encode(), 8) == []
    many = "\n".join(own % f"00-{n:032x}-{n:016x}-01" for n in range(1, 9)) * 2
    assert len(sampled_in(many.encode(), 5)) == 5
    assert len(sampled_in(many.encode(), 99)) == 8
