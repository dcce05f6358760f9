"""What is remembered has a bound, and the newest stays."""

from __future__ import annotations

from taximeter.meter.wire.bounded_cache import BoundedCache


def test_what_was_kept_longest_ago_is_forgotten_first() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.keep("a", 1)
    cache.keep("b", 2)
    assert cache.get("a") == 1, "reading keeps nothing"
    cache.keep("b", 3)
    cache.keep("c", 4)
    assert dict(cache) == {"b": 3, "c": 4}
    cache.keep("b", 5)
    cache.keep("d", 6)
    assert dict(cache) == {"b": 5, "d": 6}
