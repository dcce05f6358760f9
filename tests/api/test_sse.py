"""Events of a stream: the same however the network cuts it, and no usage for who asked none."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.api.openai.sse import (
    EVENT_BYTES_MAX,
    Event,
    EventReader,
    StreamBroken,
    encode_event,
    parse_event,
    without_usage,
)

ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\n\n"])
LINES = st.sampled_from(
    [
        b'data: {"a": 1}',
        b'data:{"a":"\xc3\xa9"}',
        b'data: {"a":\ndata: 2}',
        b"event: x\ndata: 3",
        b": a comment",
        b"data: [DONE]",
        b"data: {broken",
        b"data:",
    ]
)


def read(parts: list[bytes]) -> list[Event]:
    reader = EventReader()
    return [event for part in parts for event in reader.feed(part)] + reader.rest()


@given(
    st.lists(st.tuples(LINES, ENDS), min_size=1, max_size=6),
    st.lists(st.integers(0, 200), max_size=8),
    st.booleans(),
)
def test_the_network_cuts_anywhere(
    events: list[tuple[bytes, bytes]], cuts: list[int], is_closed: bool
) -> None:
    stream = b"".join(line + end for line, end in events)
    if not is_closed:
        stream = stream.rstrip()
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    parts = [stream[a:b] for a, b in itertools.pairwise(places)]
    byte_by_byte = [stream[place : place + 1] for place in range(len(stream))]
    # A separator of three may be cut so that the third byte begins the next event: only what the
    # events say is the same then.
    assert said(read(parts)) == said(read(byte_by_byte))
    joined = b"".join(event.raw for event in read(parts))
    assert joined.rstrip() == stream.rstrip()


def said(events: list[Event]) -> list[tuple[Any, bool]]:
    return [(event.document, event.is_done) for event in events if event.raw.strip()]


def test_an_event_is_read_the_moment_it_is_whole() -> None:
    reader = EventReader()
    assert reader.feed(b'data: {"a": 1}\n') == []
    (event,) = reader.feed(b"\n")
    assert event.document == {"a": 1}
    assert [one.document for one in reader.feed(b'data: {"a":2}\n\ndata: {"a":3}\n\n')] == [
        {"a": 2},
        {"a": 3},
    ]


def test_an_event_without_an_end_is_refused() -> None:
    reader = EventReader()
    part = b"x" * (1024 * 1024)
    for _ in range(EVENT_BYTES_MAX // len(part)):
        assert reader.feed(part) == []
    with pytest.raises(StreamBroken, match=str(EVENT_BYTES_MAX)):
        reader.feed(part)


USAGES: list[Any] = [
    {"id": "x", "choices": [], "usage": None},
    {"id": "x", "usage": None, "choices": []},
    {"id": "x", "choices": [{"usage": None}], "usage": None},
    {"id": "x", "choices": [], "usage": {"prompt_tokens": 1}},
    {"id": "x", "choices": [], "text": ',"usage":null}', "usage": None},
    {"id": "x", "choices": [{"usage": None}]},
]


@pytest.mark.parametrize("document", USAGES, ids=lambda one: json.dumps(one)[:60])
def test_a_field_of_usage_is_taken_out(document: dict[str, Any]) -> None:
    expected = {key: value for key, value in document.items() if key != "usage"}
    for raw in (encode_event(document), b"data: " + json.dumps(document).encode() + b"\n\n"):
        written = parse_event(without_usage(parse_event(raw)))
        assert written.document == expected
