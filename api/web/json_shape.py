"""Measures JSON text, how many values and how deep, before anything is parsed, which can cost a
hundred times what sending it did.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

DEPTH_MAX: Final = 64
GROUP_OF_VALUES: Final = 5
"""A list or an object costs about as much as so many plain values."""
_SLICE: Final = 65_536

_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# A string to its end, or to the end of what there is. Nothing in it is tried twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [0] * 256
for _sign, _step in zip(b"[]{}", (1, -1, 1, -1), strict=True):
    _STEPS[_sign] = _step


class ShapeError(ValueError):
    """The text is over a limit; the message names it."""


class Shape:
    """Counts values and depth of JSON text that comes in parts, without parsing it: one pass, in a
    time per byte that no text makes longer.
    """

    def __init__(self, values_max: int, depth_max: int = DEPTH_MAX) -> None:
        self._values_max = values_max
        self._depth_max = depth_max
        self._values = 1
        self._depth = 0
        self._in_string = False
        self._cut = b""  # A backslash at the end of the last part, whose character comes now.

    def feed(self, part: bytes) -> None:
        """Look at the next part. Raises ShapeError at the limit."""
        for start in range(0, len(part), _SLICE):
            self._feed(part[start : start + _SLICE])

    def _feed(self, part: bytes) -> None:
        part = self._cut + part
        is_cut = (len(part) - len(part.rstrip(b"\\"))) % 2
        self._cut = b"\\" if is_cut else b""
        if is_cut:
            part = part[:-1]
        if self._in_string:
            found = _REST.match(part)
            assert found is not None, "the pattern also matches nothing"
            if found.end() == len(part):
                return
            self._in_string = False
            part = part[found.end() + 1 :]
        # A string that has no end here takes the mark at the end with it.
        outside = _STRING.sub(b"", part + b"\n")
        self._in_string = not outside.endswith(b"\n")
        brackets = outside.translate(None, _NOT_BRACKETS)
        groups = brackets.count(b"[") + brackets.count(b"{")
        self._values += outside.count(b",") + GROUP_OF_VALUES * groups
        if self._values > self._values_max:
            raise ShapeError(
                f"must have at most {self._values_max} values, where a list or an object "
                f"counts as {GROUP_OF_VALUES}"
            )
        if brackets:
            depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth))
            self._depth = depths[-1]
            if max(depths) > self._depth_max:
                raise ShapeError(f"must be at most {self._depth_max} levels deep")
