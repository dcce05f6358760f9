"""Inserts the row of (organisation, request, phase) for events, which is what charges a request
once.

A repeat is set aside as a duplicate. One repeat is due all the same: a commit of more than the
expiry of its hold has charged, made where Redis did not know of that expiry, since it had forgotten
it or went on from before it. What the expiry has charged is taken off it and the rest is booked, as
Redis would have done had it remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import asyncpg

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection
from taximeter.settler.settling.columns import CHARGED_COLUMNS, charged_record
from taximeter.settler.settling.events import BadLine, Event, Reason

_SQL: Final = load_queries("settle")
_ROUNDS_MAX: Final = 10

Key = tuple[str, str, int]


@dataclass(slots=True)
class ChargedRequests:
    """events: to be booked, each with its row. bad: set aside. paid_before: by seq, what an
    expiry had charged of an event already, which its account gets back.
    """

    events: dict[Key, Event] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    paid_before: dict[int, int] = field(default_factory=dict)
    _whole: dict[int, Event] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Charge one event, or set it aside as a repeat of one before it in the same run."""
        earlier = self.events.setdefault(_key(event), event)
        if earlier is not event:
            self._repeat(event, earlier.kind == "expire", earlier.user_id, earlier.amount)

    def refuse(self, key: Key, by_expiry: bool, user_id: str, amount: int) -> None:
        """The ledger has this charge already."""
        self._repeat(self.events.pop(key), by_expiry, user_id, amount)

    def _repeat(self, event: Event, by_expiry: bool, user_id: str, amount: int) -> None:
        rest = event.amount - amount
        if by_expiry and event.kind == "commit" and event.user_id == user_id and rest > 0:
            self.paid_before[event.seq] = amount
            self._whole[event.seq] = event
            self.add(event._replace(amount=rest, flags="rest"))
            return
        # Set aside as it came: all of it is given back, not only what was left of it.
        self.paid_before.pop(event.seq, None)
        whole = self._whole.pop(event.seq, event)
        self.bad.append(set_aside(whole, "duplicate", "the request is charged already"))


def set_aside(event: Event, reason: Reason, detail: str) -> BadLine:
    """The event as a bad line whose account and amount are known, so that it is given back."""
    return BadLine(
        event.seq, reason, detail, event.line,
        event.org_id, event.user_id, event.request_id, event.amount,
    )  # fmt: skip


async def insert_charged(
    conn: Connection,
    shard: int,
    epoch: int,
    events: Sequence[Event],
    times: dict[int | None, datetime],
) -> ChargedRequests:
    """Insert the rows of `events`, in the caller's transaction.

    Duplicates are rare, so nobody is asked first: the unique key refuses the copy, and only then we
    look which it was. Raises what is not about the rows (deadlock, lost connection).
    """
    charged = ChargedRequests()
    for event in events:
        charged.add(event)
    for _ in range(_ROUNDS_MAX):
        records = [
            charged_record(event, shard, epoch, times[event.time_ms])
            for event in charged.events.values()
        ]
        try:
            async with conn.transaction():
                await conn.copy_records_to_table(
                    "charged_requests",
                    schema_name="taximeter",
                    columns=CHARGED_COLUMNS,
                    records=records,
                )
            return charged
        except asyncpg.UniqueViolationError:
            # The statement that asks has a newer snapshot than the copy had, so it sees who was
            # first.
            wanted = list(charged.events)
            rows = await conn.fetch(_SQL["charged_already"], *map(list, zip(*wanted, strict=True)))
            for row in rows:
                charged.refuse((row["org_id"], row["request_id"], row["phase"]), *row[3:])
    raise asyncpg.DeadlockDetectedError("others keep charging the same requests")


def _key(event: Event) -> Key:
    return event.org_id, event.request_id, event.phase
