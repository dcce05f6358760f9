"""Makes spans with OpenTelemetry and sends them by OTLP, from a thread and a bounded queue: no
request waits for that, and what has no room is counted and forgotten.

The SDK reads its own variables (OTEL_*): where to send, which traces, how many spans wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from taximeter.meter.client import Meter
from taximeter.meter.traced import TracedMeter, current_trace_id
from taximeter.meter.wire.release import release
from taximeter.meter.wire.traceparent import sampled_in
from taximeter.settler.settling.settle import Settled
from taximeter.settler.settling.stream import Run

logger = logging.getLogger("taximeter.tracing")

LINKS_MAX: Final = 128
"""Most requests that the span of one batch is linked to: as many as the SDK keeps by default."""
CLOSE_S: Final = 2.0
_WAITING_MAX: Final = 2_048
_BATCH_MAX: Final = 512
_W3C: Final = TraceContextTextMapPropagator()


class Tracing:
    """Spans of one process, and what became of them. `costs`: spans say credits."""

    def __init__(self, process: str, *, costs: bool, exporter: SpanExporter | None = None) -> None:
        self.costs = costs
        self._provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False)
        # Before the tracer is made, which keeps it.
        self._provider.sampler = _BatchSampler(self._provider.sampler)
        self._counts = SpanCounts(_number(OTEL_BSP_MAX_QUEUE_SIZE, _WAITING_MAX))
        if os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() != "none":
            self._provider.add_span_processor(
                _Processor(exporter or OTLPSpanExporter(), self._counts)
            )
        self.tracer = self._provider.get_tracer("taximeter", release())

    current_trace_id = staticmethod(current_trace_id)

    async def connect_meter(self, url: str, **options: Any) -> Meter:
        """As Meter.connect, with spans."""
        meter = await TracedMeter.connect(url, **options)
        assert isinstance(meter, TracedMeter)
        meter.trace_with(self.tracer, costs=self.costs)
        return meter

    def context_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Context:
        """The context that a request brings (W3C Trace Context), empty where it brings none."""
        found: dict[str, str] = {}
        for name, value in headers:
            if name in (b"traceparent", b"tracestate"):
                text = value.decode("latin-1")
                before = found.get(name.decode())
                found[name.decode()] = text if before is None else f"{before},{text}"
        return _W3C.extract(found, Context()) if found else Context()

    def headers_of(self, context: Context) -> dict[str, str]:
        """The headers that take a context on."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, context)
        return carrier

    def settled(self, run: Run, done: Settled, started: float) -> None:
        """A run was booked, in a transaction that has committed; it took from `started` (of
        time.perf_counter) to now. Makes a span if one of its requests was traced; raises nothing,
        since what is booked must not look as if it had failed.
        """
        try:
            self._make_settle_span(run, done, started)
        except Exception:
            logger.exception("a batch was booked, and its span could not be made")

    def _make_settle_span(self, run: Run, done: Settled, started: float) -> None:
        requests: dict[tuple[int, int], None] = {}
        for entry in run.entries:
            lines = entry.fields.get(b"v1", b"")
            requests |= dict.fromkeys(sampled_in(lines, LINKS_MAX - len(requests)))
            if len(requests) >= LINKS_MAX:
                break
        if not requests:
            return
        now = time.time_ns()
        links = [
            Link(SpanContext(*request, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
            for request in requests
        ]
        span: Span = self.tracer.start_span(
            "taximeter.settle",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=links,
            start_time=now - int((time.perf_counter() - started) * 1e9),
            attributes={
                "taximeter.shard": done.shard,
                "taximeter.epoch": done.epoch,
                "taximeter.seq": done.seq,
                "taximeter.events": done.settled,
                "taximeter.dead_events": done.dead,
                "taximeter.lost_events": done.lost,
            },
        )
        span.end(now)

    def families(self) -> Iterator[Metric]:
        """What became of the spans of this process."""
        yield from span_families(self._counts)

    async def aclose(self) -> None:
        """Send what waits, for at most CLOSE_S. What is not sent by then is lost."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # Nobody waits any more.
                loop.call_soon_threadsafe(done.set)

        # No thread of the loop's own, whose end a process waits for.
        threading.Thread(target=shut_down, name="taximeter-tracing-end", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), CLOSE_S)


class SpanCounts:
    """What became of the spans of one process. At most `most` wait to be sent."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting = 0
        self.outcomes: Counter[str] = Counter(exported=0, failed=0, dropped=0)
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            if self.waiting >= self.most:
                self.outcomes["dropped"] += 1
                return False
            self.waiting += 1
            return True

    def gone(self, spans: int) -> None:
        """So many no longer wait, but are being sent."""
        with self._lock:
            self.waiting -= spans

    def sent(self, spans: int, outcome: str) -> None:
        """The receiver has taken so many, or has not."""
        with self._lock:
            self.outcomes[outcome] += spans


def span_families(counts: SpanCounts) -> Iterator[Metric]:
    """The figures that /metrics tells of spans."""
    spans = CounterMetricFamily(
        "taximeter_trace_spans",
        "Spans of this process that were sampled, by what became of them; dropped: no room.",
        labels=("outcome",),
    )
    for outcome, number in counts.outcomes.items():
        spans.add_metric((outcome,), number)
    yield spans
    waiting = GaugeMetricFamily(
        "taximeter_trace_spans_waiting",
        "Spans that wait to be sent, and how many may.",
        labels=("state",),
    )
    waiting.add_metric(("waiting",), counts.waiting)
    waiting.add_metric(("max",), counts.most)
    yield waiting


class _Processor(BatchSpanProcessor):
    """The SDK's, with a bound of ours: it drops the oldest where there is no room, and counts
    nothing.
    """

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        batch = min(_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, _BATCH_MAX), counts.most)
        super().__init__(
            _Exporter(exporter, counts),
            max_queue_size=counts.most,
            max_export_batch_size=batch,
        )
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and self._counts.take():
            super().on_end(span)


class _Exporter(SpanExporter):
    """Counts what another exporter sends."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._exporter, self._counts = exporter, counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._counts.gone(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            is_sent = result is SpanExportResult.SUCCESS
            self._counts.sent(len(spans), "exported" if is_sent else "failed")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BatchSampler(Sampler):
    """The sampler of the settings, but for what is linked to requests that were sampled: a batch of
    which one request in a hundred is seen is seen with it.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        if links and self._inner is not ALWAYS_OFF:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._inner.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return f"linked, else {self._inner.get_description()}"


def _resource(process: str) -> Resource:
    """What the operator says of the process in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, and
    our own words where nothing is said.
    """
    found = Resource.create()
    ours = {SERVICE_VERSION: release()}
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return Resource({**found.attributes, **ours, SERVICE_NAME: f"taximeter-{process}"})
    return Resource({**ours, **found.attributes})


def _number(variable: str, default: int) -> int:
    """A positive number of the environment. What is none counts as not set, as in the SDK."""
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else default
