"""Whatever stands in a stream entry becomes events or bad lines, numbered without gaps, and nothing
raises.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.settler.settling.events import BadLine, Event, parse_entry, parse_line

GOOD = b"commit\tacme/ann\tacme/r1\t50\t100\t-\t{}"


def test_a_line_becomes_an_event() -> None:
    event = parse_line(GOOD, 7, 1_790_000_000_000)
    assert isinstance(event, Event)
    assert (event.seq, event.kind, event.org_id, event.user_id) == (7, "commit", "acme", "ann")
    assert (event.request_id, event.amount, event.reserved, event.phase) == ("r1", 50, 100, 0)


def test_the_rest_of_an_expired_request_is_another_phase() -> None:
    event = parse_line(GOOD.replace(b"\t-\t", b"\trest\t"), 1, None)
    assert isinstance(event, Event)
    assert event.phase == 1


def test_a_user_id_may_hold_slashes_and_any_script() -> None:
    event = parse_line("charge\tacme/a/b ü\tacme/r1\t1\t0\t-\t".encode(), 1, None)
    assert isinstance(event, Event)
    assert event.user_id == "a/b ü"


@pytest.mark.parametrize(
    ("line", "reason", "given_back"),
    [
        (b"", "unreadable_line", False),
        (b"commit", "unreadable_line", False),
        (b"\xff\xfe\tacme/ann\tacme/r1\t50\t100\t-\t{}", "unreadable_line", True),
        (b"refund\tacme/ann\tacme/r1\t50\t100\t-\t{}", "unreadable_line", True),
        (b"commit\tacme\tacme/r1\t50\t100\t-\t{}", "unreadable_line", False),
        (b"commit\t/ann\tacme/r1\t50\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/a\x01n\tacme/r1\t50\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/\xff\tacme/r1\t50\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/ann\tacme/\t50\t100\t-\t{}", "unreadable_line", True),
        (b"commit\tacme/ann\tacme/r1\t-50\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/ann\tacme/r1\tnan\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/ann\tacme/r1\t1e3\t100\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/ann\tacme/r1\t 5\t100\t-\t{}", "unreadable_line", False),
        ("commit\tacme/ann\tacme/r1\t٥\t100\t-\t{}".encode(), "unreadable_line", False),
        (b"commit\tacme/ann\tacme/r1\t1000000000001\t0\t-\t{}", "unreadable_line", False),
        (b"commit\tacme/ann\tacme/r1\t50\tmany\t-\t{}", "unreadable_line", True),
        (b"commit\tacme/ann\tacme/r1\t50\t100\tnew\t{}", "unreadable_line", True),
        (b"commit\tacme/ann\tother/r1\t50\t100\t-\t{}", "cross_tenant", True),
    ],
)
def test_a_bad_line_says_why_and_keeps_what_can_be_given_back(
    line: bytes, reason: str, given_back: bool
) -> None:
    bad = parse_line(line, 3, None)
    assert isinstance(bad, BadLine)
    assert (bad.seq, bad.reason, bad.line) == (3, reason, line)
    assert bool(bad.org_id and bad.user_id and bad.amount) is given_back


def test_the_lines_of_an_entry_have_the_numbers_up_to_its_id() -> None:
    entry = parse_entry(b"4-12", {b"t": b"1790000000000", b"v1": b"\n".join([GOOD] * 3)}, 9)
    assert (entry.epoch, entry.first_seq, entry.last_seq) == (4, 10, 12)
    assert [item.seq for item in entry.items] == [10, 11, 12]


def test_an_entry_without_lines_is_one_unreadable_line() -> None:
    entry = parse_entry(b"1-5", {b"v2": b"from the future"}, 4)
    assert [(item.seq, type(item)) for item in entry.items] == [(5, BadLine)]
    assert isinstance(entry.items[0], BadLine)
    assert entry.items[0].line == b"v2=from the future"


def test_surplus_lines_are_kept_but_get_no_numbers() -> None:
    lines = [b"a", b"b", GOOD]
    entry = parse_entry(b"1-2", {b"v1": b"\n".join(lines)}, 0)
    assert [item.seq for item in entry.items] == [1, 2]
    assert isinstance(entry.items[0], BadLine)
    assert entry.items[0].line == b"a\nb"
    assert isinstance(entry.items[1], Event)


@pytest.mark.parametrize("time", [b"", b"-1", b"soon", b"9" * 20, b"12"])
def test_a_damaged_time_loses_nothing(time: bytes) -> None:
    entry = parse_entry(b"1-1", {b"t": time, b"v1": GOOD}, 0)
    assert isinstance(entry.items[0], Event)
    assert entry.items[0].time_ms is None


@given(
    lines=st.lists(st.binary(max_size=40) | st.just(GOOD), min_size=1, max_size=8),
    gap=st.integers(0, 5),
    after=st.integers(0, 1000),
)
def test_numbers_are_contiguous_whatever_the_bytes(
    lines: list[bytes], gap: int, after: int
) -> None:
    text = b"\n".join(lines)
    last = after + gap + len(text.split(b"\n"))
    entry = parse_entry(f"1-{last}", {b"v1": text}, after)
    assert [item.seq for item in entry.items] == list(range(entry.first_seq, last + 1))
    assert entry.first_seq == after + gap + 1
