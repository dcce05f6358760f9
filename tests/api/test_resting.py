"""When an upstream is left alone, and when it is tried again."""

from __future__ import annotations

from taximeter.api.upstreams.resting import Rest


def test_it_rests_after_failures_in_a_row_and_one_request_tries_it_then() -> None:
    now = 0.0
    rest = Rest(3, 10.0, clock=lambda: now)
    for _ in range(2):
        rest.failed()
        assert not rest.is_resting
    rest.answered()
    for _ in range(2):
        rest.failed()
        assert not rest.is_resting, "an answer begins the count anew"
    rest.failed()
    assert rest.is_resting
    now = 9.9
    assert rest.is_resting
    now = 10.0
    assert not rest.is_resting, "one request tries it"
    assert rest.is_resting, "and no other while that one runs"
    rest.failed()
    now = 19.9
    assert rest.is_resting
    now = 20.0
    assert not rest.is_resting
    rest.answered()
    assert not rest.is_resting
