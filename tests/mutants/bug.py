"""What a planted bug is, and the list that it comes from."""

from __future__ import annotations

from typing import Final, NamedTuple

LISTED: Final = (
    "XACK before COMMIT",
    "DO NOTHING without RETURNING",
    "library retries on",
    "HINCRBY before XADD",
    "plain finally",
    "MAXLEN on XADD",
    "group at $",
    "TTL on holds",
    "SET instead of delta in repair",
    "outbox id > last",
    "reconciler without cut",
    "missing epoch check",
    "unsorted updates",
    "\\d regex",
    "tonumber without regex",
    "BackgroundTask commit",
    "dedupe by stream id",
    "XTRIM before commit",
    "cascade delete",
    "shared request id across orgs",
)
"""Bugs that others have shipped, as they are commonly named. Where our design has no such place
(there are no consumer groups), the nearest bug that it can have stands for the item.
"""


class Bug(NamedTuple):
    """`old` stands exactly once in what is run of `file`. `tests` are what pytest takes, below
    tests/, and at least one of them must fail. `item` is what of LISTED it stands for.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    item: str = ""
