"""Writes the trace context of a charge into its payload, and finds it there again: the text of the
header `traceparent` (W3C Trace Context), as a member of the metadata.

Plain text and no OpenTelemetry: whoever settles reads it so, and a usage row shows it to people.
"""

from __future__ import annotations

import re
from typing import Final

from taximeter.meter.wire.payload_codes import CODED, CODES

NAME: Final = "traceparent"
_META: Final = '","meta":{'
_META_CODE: Final = next(code for code, meant in CODES.items() if meant == _META)
# In JSON a quote inside of a text has a backslash before it, so this stands nowhere but where a
# member of this name is. The last digit is odd where the context is sampled.
_SAMPLED: Final = re.compile(
    rb'"traceparent":"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]"'
)


def text_of(trace_id: int, span_id: int) -> str:
    """The header of a span that is sampled."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


def add_to_payload(payload: str, text: str) -> str:
    """A payload as clients write it, plain or with codes, with this context as the first of its
    metadata; any other as it is.
    """
    if NAME in payload:
        return payload
    mark = _META_CODE if payload.startswith(CODED) else _META
    head, found, rest = payload.partition(mark)
    if not found:
        return payload
    comma = "" if rest.startswith("}") else ","
    return f'{head}{found}"{NAME}":"{text}"{comma}{rest}'


def sampled_in(lines: bytes, most: int) -> list[tuple[int, int]]:
    """(trace id, span id) of the first contexts in lines of events, each once, at most so many."""
    seen: dict[tuple[int, int], None] = {}
    for found in _SAMPLED.finditer(lines):
        if len(seen) >= most:
            break
        context = int(found[1], 16), int(found[2], 16)
        if all(context):
            seen[context] = None
    return list(seen)
