"""Makes the span of a call upstream, in the words of OpenTelemetry's conventions for GenAI
(semantic-conventions-genai 0.1.0): the model, the provider and the tokens. Never what was asked or
answered, nor a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from taximeter.api.openai.request import LlmRequest
from taximeter.api.upstreams.router import Target
from taximeter.api.web.errors import ApiError
from taximeter.meter import Hold, Usage
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT
from taximeter.settler.status.spans import Tracing

OPERATION_OF: Final = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
    "/images/generations": "generate_content",
    "/responses": "chat",
}


class CallSpan:
    """The span of one call, with everything that is tried for it. It ends once: with what was
    charged, or with what it failed of.
    """

    def __init__(self, tracing: Tracing, chat: LlmRequest, first: Target, hold: Hold) -> None:
        self._operation = OPERATION_OF[chat.surface.path]
        self._costs = tracing.costs
        self._started = time.perf_counter()
        attributes: dict[str, str | int | bool] = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": first.upstream.provider or first.upstream.name,
            "gen_ai.request.model": first.model,
            "server.address": first.upstream.server,
            "server.port": first.upstream.port,
            "taximeter.model": chat.model,
            "taximeter.organization": hold.org_id,
            "taximeter.request_id": hold.request_id,
        }
        if chat.stream:
            attributes["gen_ai.request.stream"] = True
        if chat.n != 1:
            attributes["gen_ai.request.choice.count"] = chat.n
        if chat.output_tokens_limit is not None:
            attributes["gen_ai.request.max_tokens"] = chat.output_tokens_limit
        self._span: Span = tracing.tracer.start_span(
            f"{self._operation} {first.model}", kind=SpanKind.CLIENT, attributes=attributes
        )
        self._headers = tracing.headers_of(set_span_in_context(self._span))

    def on(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a request that goes upstream as part of this call."""
        kept = {
            name: value
            for name, value in headers.items()
            if name not in ("traceparent", "tracestate")
        }
        return {**kept, **self._headers}

    def answered(self, target: Target) -> None:
        """This target has begun to answer."""
        span, upstream = self._span, target.upstream
        span.update_name(f"{self._operation} {target.model}")
        span.set_attribute("gen_ai.provider.name", upstream.provider or upstream.name)
        span.set_attribute("gen_ai.request.model", target.model)
        span.set_attribute("server.address", upstream.server)
        span.set_attribute("server.port", upstream.port)

    def first_event(self) -> None:
        """The first event of a stream has come."""
        self._span.set_attribute(
            "gen_ai.response.time_to_first_chunk", time.perf_counter() - self._started
        )

    def charged(self, amount: int, usage: Usage) -> None:
        """The call is over, and this is charged for it."""
        span, known = self._span, usage.metadata
        for side, counted in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if isinstance(tokens := known.get(counted), int):
                span.set_attribute(f"gen_ai.usage.{side}_tokens", tokens)
        if known.get("estimated"):
            span.set_attribute("taximeter.estimated", True)
        if self._costs:
            span.set_attribute("taximeter.charged_credits", amount / MILLICREDITS_PER_CREDIT)
        span.end()

    def failed(self, error: BaseException | None) -> None:
        """The call is over, and nothing is charged. Does nothing after the end."""
        if not self._span.is_recording():
            return
        if error is not None:
            kind = error.code if isinstance(error, ApiError) else type(error).__name__
            self._span.set_attribute("error.type", kind)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
