"""Names the reply codes of the scripts: positive means the state is as asked for, negative means
refused and nothing changed.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """First field of every reply. The headers in lua/ say which script answers which."""

    OK = 1
    REPLAYED = 2
    LATE = 3
    INSUFFICIENT = -1
    NOT_LOADED = -2
    INVALID = -3
    CONFLICT = -4
    UNKNOWN_HOLD = -5
    GAP = -6
    PAUSED = -7
    NOT_ALLOWED = -8
    TOO_MANY_HOLDS = -9
    ELSEWHERE = -10


FENCED = "FENCED"
STALE_EPOCH = "STALE_EPOCH"
MALFORMED = "MALFORMED"
"""First words of the error replies that refuse a whole call."""
