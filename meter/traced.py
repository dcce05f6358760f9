"""Traces what a meter does with OpenTelemetry: TracedMeter, a Meter for who has the extra `otel`.

Nothing else in the client imports OpenTelemetry, and a Meter does not know that this is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from taximeter.meter.client import Meter
from taximeter.meter.hold import Hold
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT
from taximeter.meter.wire.errors import InvalidRequest, MeterError
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.ids import new_request_id
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX
from taximeter.meter.wire.many import (
    Charge,
    PlainCharge,
    PlainReserve,
    Reserve,
    charge_operations,
)
from taximeter.meter.wire.operations import Operation
from taximeter.meter.wire.payload_codes import plain
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.release import release
from taximeter.meter.wire.traceparent import NAME, add_to_payload, text_of
from taximeter.meter.wire.usage import Usage

SPAN_OF: Final = {
    "reserve": "taximeter.hold",
    "commit": "taximeter.commit",
    "release": "taximeter.release",
    "charge": "taximeter.charge",
    "batch": "taximeter.batch",
}


class TracedMeter(Meter):
    """A Meter that makes a span of each hold, commit, release and charge, below the span that is
    current, and sends the context of a charge with it to who settles it.

    Spans go to the provider that is set for the whole process, unless `trace_with` names another
    tracer. They have ids of requests and organisations, and no names of users. A span that is not
    sampled leaves nothing anywhere. Heartbeats (`touch`) are not traced.
    """

    _tracer: Tracer | None = None
    _tells_costs = False

    def trace_with(self, tracer: Tracer, *, costs: bool = False) -> None:
        """Use this tracer. `costs`: spans say what was held and charged, in credits."""
        self._tracer, self._tells_costs = tracer, costs

    async def reserve(
        self,
        org_id: str,
        user_id: str,
        amount: int,
        *,
        request_id: str | None = None,
        ttl_s: float = 60.0,
        usage: Usage | None = None,
        opener: str = "",
    ) -> Hold:
        request_id = new_request_id() if request_id is None else request_id
        with self._span("reserve", org_id, request_id) as span:
            hold = await super().reserve(
                *(org_id, user_id, amount),
                request_id=request_id,
                ttl_s=ttl_s,
                usage=None if usage is None else _with_context(usage, span),
                opener=opener,
            )
            self._tell(span, "held", amount)
            return hold

    async def commit(
        self,
        org_id: str,
        user_id: str,
        request_id: str,
        amount: int,
        *,
        usage: Usage | None = None,
        asker: Asker | None = None,
    ) -> Receipt:
        with self._span("commit", org_id, request_id) as span:
            # Without a usage the payload of the hold is booked, and the context that stands there.
            if usage is not None:
                usage = _with_context(usage, span)
            receipt = await super().commit(
                org_id, user_id, request_id, amount, usage=usage, asker=asker
            )
            self._tell(span, "charged", receipt.charged)
            return receipt

    async def release(
        self, org_id: str, user_id: str, request_id: str, *, asker: Asker | None = None
    ) -> Receipt:
        with self._span("release", org_id, request_id):
            return await super().release(org_id, user_id, request_id, asker=asker)

    async def charge(
        self,
        org_id: str,
        user_id: str,
        amount: int,
        *,
        request_id: str | None = None,
        usage: Usage | None = None,
        pays_ahead: bool = False,
    ) -> Receipt:
        request_id = new_request_id() if request_id is None else request_id
        with self._span("charge", org_id, request_id) as span:
            receipt = await super().charge(
                *(org_id, user_id, amount),
                request_id=request_id,
                usage=_with_context(usage or Usage(), span),
                pays_ahead=pays_ahead,
            )
            self._tell(span, "charged", receipt.charged)
            return receipt

    async def charge_many(
        self, charges: Iterable[Charge | PlainCharge]
    ) -> list[Receipt | MeterError]:
        return await self.run_many(charge_operations(charges))

    async def reserve_many(
        self, reserves: Iterable[Reserve | PlainReserve]
    ) -> list[Hold | MeterError]:
        with self._span("batch") as span:
            if _is_sampled(span):
                reserves = [_reserve_with_context(one, span) for one in reserves]
            held = await super().reserve_many(reserves)
            span.set_attribute("taximeter.operations", len(held))
            return held

    async def run_many(
        self, operations: Sequence[Operation | MeterError]
    ) -> list[Receipt | MeterError]:
        with self._span("batch") as span:
            span.set_attribute("taximeter.operations", len(operations))
            if _is_sampled(span):
                operations = [_operation_with_context(one, span) for one in operations]
            return await super().run_many(operations)

    @contextmanager
    def _span(self, op: str, org_id: str = "", request_id: str = "") -> Iterator[Span]:
        """A span around one call. Of what it raises the class is told: words may hold names."""
        if self._tracer is None:
            self._tracer = trace.get_tracer("taximeter", release())
        attributes = {}
        if request_id:
            attributes = {"taximeter.organization": org_id, "taximeter.request_id": request_id}
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            SPAN_OF[op],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except MeterError as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            if op != "batch" and _is_sampled(span):
                context = span.get_span_context()
                self.tally.exemplify(op, context.trace_id, time.perf_counter() - started)

    def _tell(self, span: Span, what: str, millicredits: int) -> None:
        if self._tells_costs:
            span.set_attribute(f"taximeter.{what}_credits", millicredits / MILLICREDITS_PER_CREDIT)


def current_trace_id() -> int:
    """The trace of the span that is current, where it is sampled; else 0."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id if context.trace_flags.sampled else 0


def _is_sampled(span: Span) -> bool:
    return span.get_span_context().trace_flags.sampled


def _context_text(span: Span) -> str:
    context = span.get_span_context()
    return text_of(context.trace_id, context.span_id)


def _with_context(usage: Usage, span: Span) -> Usage:
    """The usage with the context of a span that is sampled, where there is room for it: what a
    charge is for comes before.
    """
    if not _is_sampled(span):
        return usage
    try:
        metadata: dict[str, Any] = {NAME: _context_text(span), **usage.metadata}
        made = Usage(usage.service_type, usage.service_name, metadata)
        made.payload()
    except (InvalidRequest, TypeError, ValueError):
        return usage  # Whoever sends it says what is wrong with it, if anything is.
    return made


def _reserve_with_context(reserve: Any, span: Span) -> Any:
    """The same for one of several, as far as it is one."""
    if not isinstance(reserve, tuple) or len(reserve) != len(Reserve._fields):
        return reserve  # Which is refused as always.
    made = Reserve(*reserve)
    if not isinstance(made.usage, Usage):
        return reserve
    return made._replace(usage=_with_context(made.usage, span))


def _operation_with_context(
    operation: Operation | MeterError, span: Span
) -> Operation | MeterError:
    """The same for an operation whose payload is written already."""
    if isinstance(operation, MeterError) or operation.op not in ("reserve", "commit", "charge"):
        return operation
    payload = operation.payload
    if not payload and operation.op == "charge":
        payload = Usage().payload()
    longer = add_to_payload(payload, _context_text(span))
    if len(plain(longer)) > PAYLOAD_BYTES_MAX:
        return operation
    return operation._replace(payload=longer)


__all__ = ["TracedMeter", "current_trace_id"]
