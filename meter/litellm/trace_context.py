"""Finds the trace that a request of LiteLLM belongs to, for the sidecar: W3C Trace Context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from taximeter.meter.wire.traceparent import NAME

_WELL_FORMED: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE: Final = "tracestate"
_STATE_LENGTH_MAX: Final = 512


def trace_headers(key: Any, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that carry the trace on, empty where there is none: below LiteLLM's own span where it
    makes some (`parent_otel_span` of the caller's key), else below that of its caller. `headers`
    are those of the caller's request, in lower case. Never raises: a trace stops no request.
    """
    span = getattr(key, "parent_otel_span", None)
    found: Any  # What another program hands over, whatever its types say.
    state: Any
    try:
        context = span.get_span_context()  # type: ignore[union-attr]
        found = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        state = context.trace_state.to_header()
    except Exception:  # None, or a span of another library.
        found, state = headers.get(NAME), headers.get(_STATE)
    if not isinstance(found, str) or not _WELL_FORMED.fullmatch(found):
        return {}
    if isinstance(state, str) and 0 < len(state) <= _STATE_LENGTH_MAX and _is_header(state):
        return {NAME: found, _STATE: state}
    return {NAME: found}


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()
