"""Remembers the newest of what may be forgotten."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(OrderedDict[K, V]):
    """A mapping of at most `size_max` keys: what was kept longest ago is forgotten first. Reading
    keeps nothing; `keep` and `move_to_end` do. Assignment is for a key that is there.
    """

    def __init__(self, size_max: int) -> None:
        super().__init__()
        self.size_max = size_max

    def keep(self, key: K, value: V) -> None:
        """Set the value and make its key the newest."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.size_max:
            self.popitem(last=False)
