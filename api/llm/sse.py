"""Server-sent events of a completion stream: where one ends, and what is inside."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

EVENT_BYTES_MAX = 8 * 1024 * 1024
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DONE = b"data: [DONE]\n\n"


class StreamBroken(Exception):
    """The upstream sent what is no event stream."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its bytes as they came, and its data if that is a JSON object."""

    raw: bytes
    document: dict[str, Any] | None
    is_done: bool


async def events_of(parts: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Split a byte stream into events, each as soon as it is whole. Raises StreamBroken for one
    without an end.
    """
    waiting = bytearray()
    searched = 0
    async for part in parts:
        waiting += part
        while (end := _END_OF_EVENT.search(waiting, searched)) is not None:
            raw = bytes(waiting[: end.end()])
            del waiting[: end.end()]
            searched = 0
            yield parse_event(raw)
        # A separator may be cut in two by the packets: the last three bytes are looked at again.
        searched = max(0, len(waiting) - 3)
        if len(waiting) > EVENT_BYTES_MAX:
            raise StreamBroken(f"an event is longer than {EVENT_BYTES_MAX} bytes")
    if waiting.strip():
        yield parse_event(bytes(waiting) + b"\n\n")


def parse_event(raw: bytes) -> Event:
    """Read one event. Comments and unreadable data are no error: they are passed on as they are."""
    lines = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if data == b"[DONE]":
        return Event(raw, None, True)
    try:
        document = json.loads(data) if data else None
    except (ValueError, RecursionError):
        document = None
    return Event(raw, document if isinstance(document, dict) else None, False)


def encode_event(document: object) -> bytes:
    """One event with this JSON document."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
