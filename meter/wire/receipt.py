"""Tells what became of a request. Amounts are millicredits."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["open", "committed", "charged", "released", "expired", "foreign"]
"""`foreign`: the id is in use by another user, and what became of it there is not told."""


class Receipt(NamedTuple):
    """What became of a request id, and the account's live balance after it (now, for a replay)."""

    request_id: str
    state: State
    reserved: int
    charged: int
    available: int
    held: int
    replayed: bool = False
    late: bool = False
