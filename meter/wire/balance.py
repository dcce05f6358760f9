"""Holds an account's figures, live and as Postgres has them. Amounts are millicredits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedAccount:
    """An account as Postgres has it: all figures must be read in one snapshot, or a relayed entry
    is lost or doubled.

    epoch: that of the account's shard in the Postgres that was asked; where it is given, figures of
    a Postgres that is not the one which the shard was opened from are refused.
    """

    available: int
    applied: int
    epoch: int | None = None


Loader = Callable[[str, str], Awaitable[LoadedAccount | None]]
"""(org_id, user_id) -> the account, or None when Postgres knows none."""

Elsewhere = Callable[[str], Awaitable[None]]
"""org_id -> nothing, when no other cell has the organisation. Raises WrongCell, CellUnknown."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The live balance: what may be reserved now, and what open holds keep. Available may be
    negative after a late commit.
    """

    available: int
    held: int
