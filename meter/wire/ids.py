"""Makes ids that nobody else makes: a random part that belongs to this process, and a count.

Cheaper than asking the system for random bytes with every request, and as unique: the random part
has 80 bits and a forked child draws its own.
"""

from __future__ import annotations

import itertools
import os

_count = itertools.count(1)
_process = ""


def _draw() -> None:
    global _process
    _process = os.urandom(10).hex()


_draw()
os.register_at_fork(after_in_child=_draw)


def new_request_id() -> str:
    """An id that nobody has used: 32 hexadecimal digits."""
    return f"{_process}{next(_count):012x}"


def new_owner() -> str:
    """A token that marks one call of reserve, short because every open hold stores it."""
    return f"{_process[:10]}{next(_count):x}"
