"""Sums up by account what a shard has charged after its watermark."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from taximeter.meter.wire.keys import account_field
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import read_position
from taximeter.settler.settling.stream import read_run

_EVENTS_PER_READ: Final = 5_000


class EventsForgotten(Exception):
    """The shard began another epoch, or its stream forgot events, while it was read. Read again."""


@dataclass(slots=True)
class UnsettledEvents:
    """The events of a shard after `watermark` up to `read_to`: millicredits by account (the name
    that it has in Redis), how many events, lines that are none, and numbers without an entry.
    """

    shard: int
    epoch: int
    watermark: int
    read_to: int = 0
    unsettled_events: int = 0
    unreadable_events: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    unsettled: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.read_to = self.watermark


async def read_unsettled(stores: Stores, found: UnsettledEvents, up_to: int) -> None:
    """Add the events up to seq `up_to`, which Redis has given already. Raises EventsForgotten,
    NewerEvents, asyncpg and redis errors.
    """
    while found.read_to < up_to:
        run = await read_run(
            stores.redis,
            stores.keys(found.shard),
            found.epoch,
            found.read_to,
            _EVENTS_PER_READ,
            up_to,
        )
        if run.empty:
            run.last_seq = up_to
            run.holes.append((found.read_to + 1, up_to))
        if run.holes:
            now = await read_position(stores.pool, found.shard)
            if now != (found.epoch, found.watermark):
                # They may have been settled and trimmed since the snapshot.
                raise EventsForgotten(f"shard {found.shard} forgot events while it was read")
            found.holes += run.holes
        events, bad_lines = run.parse()
        for event in events:
            found.unsettled[account_field(event.org_id, event.user_id)] += event.amount
        for bad in bad_lines:
            # What settle will give back counts as taken until then.
            if bad.org_id and bad.user_id and bad.amount:
                found.unsettled[account_field(bad.org_id, bad.user_id)] += bad.amount
        found.unsettled_events += len(events)
        found.unreadable_events += len(bad_lines)
        found.read_to = run.last_seq
