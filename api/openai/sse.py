"""Splits the server-sent events of a completion stream: where one ends, and what is inside."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, cast

EVENT_BYTES_MAX = 8 * 1024 * 1024
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_FIELDS = (b"data", b":", b"event", b"id", b"retry")
_NO_USAGE = b',"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"

# One encoder for all: json.dumps would make a new one for every event.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once


class StreamBroken(Exception):
    """The upstream sent what is no event stream."""


class Event(NamedTuple):
    """One event: its bytes as they came, and its data if that is a JSON object."""

    raw: bytes
    document: dict[str, Any] | None
    is_done: bool


class EventReader:
    """Splits a byte stream into events, each as soon as it is whole."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._searched = 0

    def feed(self, part: bytes) -> list[Event]:
        """The events that this part completes. Raises StreamBroken for one without an end."""
        waiting = self._waiting
        if not waiting and part.endswith(b"\n\n") and b"\r" not in part:
            # Whole events: what nearly every part is, since upstreams send them one by one.
            return [parse_event(raw + b"\n\n") for raw in part[:-2].split(b"\n\n")]
        waiting += part
        events = []
        while (end := _END_OF_EVENT.search(waiting, self._searched)) is not None:
            events.append(parse_event(bytes(waiting[: end.end()])))
            del waiting[: end.end()]
            self._searched = 0
        # A separator may be cut in two by the packets: the last three bytes are looked at again.
        self._searched = max(0, len(waiting) - 3)
        if len(waiting) > EVENT_BYTES_MAX:
            raise StreamBroken(f"an event is longer than {EVENT_BYTES_MAX} bytes")
        return events

    def rest(self) -> list[Event]:
        """The last event of a stream that ended without closing it."""
        raw = bytes(self._waiting)
        self._waiting.clear()
        return [parse_event(raw + b"\n\n")] if raw.strip() else []


def parse_event(raw: bytes) -> Event:
    """Read one event. Comments and unreadable data are no error: they are passed on as they are."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        data = raw[6:].strip()
    else:
        lines = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
        data = b"\n".join(lines)
    if data == b"[DONE]":
        return Event(raw, None, True)
    document = _value_of(data) if data else None
    return Event(raw, document if isinstance(document, dict) else None, False)


def _value_of(data: bytes) -> object:
    """The value of JSON, or None for what is none."""
    try:
        # As nearly every event is: json.loads takes twice as long to come to this.
        text = data.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return cast(object, value)
    except (ValueError, StopIteration, RecursionError):
        pass
    try:
        return cast(object, json.loads(data))
    except (ValueError, RecursionError):
        return None


def data_of(event: Event) -> str:
    """The data of an event as text, whatever it is."""
    lines = [line[5:].strip() for line in event.raw.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines).decode("utf-8", "replace")


def is_event(event: Event) -> bool:
    """Whether it is one at all: an answer that is no stream reads as one event without any of the
    fields that events have.
    """
    lines = [line for line in event.raw.splitlines() if line]
    return not lines or any(line.startswith(_FIELDS) for line in lines)


def without_usage(event: Event) -> bytes:
    """The event as who did not ask for usage would have got it: without a field of that name."""
    raw, document, _ = event
    if document is None or "usage" not in document:
        return raw
    if raw.endswith(_NO_USAGE) and raw.count(b'"usage"') == 1:
        # As the upstream writes it in all chunks but one: the last field of the outermost object.
        return raw[: -len(_NO_USAGE)] + b"}\n\n"
    return with_data(event, {key: value for key, value in document.items() if key != "usage"})


def with_data(event: Event, document: object) -> bytes:
    """The event with other data. Its name and id, if it has them, stay in front."""
    others = [line for line in event.raw.splitlines() if line and not line.startswith(b"data:")]
    return b"".join(line + b"\n" for line in others) + encode_event(document)


def encode_event(document: object) -> bytes:
    """One event with this JSON document."""
    return b"data: " + _encode(document).encode() + b"\n\n"
