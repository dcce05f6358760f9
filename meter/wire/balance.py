"""Holds an account's figures, live and as Postgres has them. Amounts are millicredits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedAccount:
    """An account as Postgres has it: both figures must be read in one snapshot, or a relayed entry
    is lost or doubled.
    """

    available: int
    applied: int


Loader = Callable[[str, str], Awaitable[LoadedAccount | None]]
"""(org_id, user_id) -> the account, or None when Postgres knows none."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The live balance: what may be reserved now, and what open holds keep. Available may be
    negative after a late commit.
    """

    available: int
    held: int
