"""Holds a move as its row says it, and a move that somebody wants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast
from uuid import UUID

import asyncpg

from taximeter.settler.books.accounts import Account

Kind = Literal["transfer", "deallocation", "removal", "expiry"]
State = Literal["pending", "done", "refused", "undone"]


@dataclass(frozen=True, slots=True)
class Move:
    """A row of taximeter.moves. Millicredits; `to_user` None is the pool.

    reason, have and held are those of a refusal (`insufficient`, `not_a_member`, `expiring`: the
    receiver's allocation has just expired and is not being closed yet); pool_allocated
    and pool_available are the pool's figures right after a move that is done. live (of no row):
    whoever has carried it out just now has seen both live balances have it.
    """

    id: UUID
    org_id: str
    kind: Kind
    from_user: str
    to_user: str | None
    amount: int
    state: State
    reason: str | None
    have: int
    held: int
    pool_allocated: int
    pool_available: int
    actor: str
    created_at: datetime
    ended_at: datetime | None
    live: bool = False

    @property
    def source(self) -> Account:
        """The account that the credits leave."""
        return self.org_id, self.from_user

    @property
    def accounts(self) -> list[Account]:
        """Every account that it changes."""
        return [self.source] + ([(self.org_id, self.to_user)] if self.to_user is not None else [])

    @classmethod
    def of(cls, row: asyncpg.Record) -> Move:
        """The row as a record."""
        return cls(
            id=UUID(int=row["id"].int),
            org_id=row["org_id"],
            kind=cast(Kind, row["kind"]),
            from_user=row["from_user"],
            to_user=row["to_user"],
            amount=row["amount"],
            state=cast(State, row["state"]),
            reason=row["reason"],
            have=row["have"] or 0,
            held=row["held"] or 0,
            pool_allocated=row["pool_allocated"] or 0,
            pool_available=row["pool_available"] or 0,
            actor=row["actor"],
            created_at=row["created_at"],
            ended_at=row["ended_at"],
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants moved. `key`, one of its organisation and kind, makes it happen once;
    `request_id` goes to the audit log.
    """

    org_id: str
    kind: Kind
    from_user: str
    amount: int
    actor: str
    to_user: str | None = None
    allocation_id: UUID | None = None
    key: str | None = None
    request_id: str | None = None
