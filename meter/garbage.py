"""Keeps Python's collector of cyclic garbage from stopping a process that has started."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (5_000, 10, 10)
"""Chosen by measurement: docs/decisions/0112-the-start-is-frozen.md."""

_frozen = 0


def freeze_start() -> int:
    """Collect what the start of this process has left over, take everything that is there out of
    the collector's sight for good, and let it look less often. Returns how many objects that were.

    Call it once, when everything is imported and read and before the first request: until then
    every full collection walks through all of it, and nobody is served meanwhile. What is there
    then and becomes garbage later is freed as ever, but for cycles of it, which stay.
    """
    global _frozen
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    _frozen = gc.get_freeze_count()
    return _frozen


def frozen_at_start() -> int:
    """How many objects `freeze_start` has taken out of the collector's sight; 0 before. Counting
    them again would walk through all of them.
    """
    return _frozen
