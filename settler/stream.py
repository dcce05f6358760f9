"""Reads a bounded, contiguous run of events after a watermark."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from taximeter.settler.events import BadLine, Entry, Event, parse_entry

_SEQ_LAST: Final = 2**64 - 1
_PAGE_FIRST: Final = 16
_PAGE_MAX: Final = 4_096

RawEntries = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(slots=True)
class Run:
    """What comes after (epoch, after_seq). Every number up to last_seq is an event, a bad line or
    in a hole.
    """

    epoch: int
    after_seq: int
    last_seq: int
    events: list[Event] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True when nothing has come."""
        return self.last_seq == self.after_seq

    @property
    def lost(self) -> int:
        """How many numbers nobody has an event for."""
        return sum(last - first + 1 for first, last in self.holes)

    def add(self, entry: Entry) -> None:
        """Take the next entry; numbers that were passed over become a hole."""
        if entry.first_seq > self.last_seq + 1:
            self.holes.append((self.last_seq + 1, entry.first_seq - 1))
        for item in entry.items:
            if isinstance(item, Event):
                self.events.append(item)
            else:
                self.bad_lines.append(item)
        self.last_seq = entry.last_seq


async def read_run(
    redis: Any, events_key: str, epoch: int, after_seq: int, events_max: int, up_to: int = _SEQ_LAST
) -> Run:
    """Read entries of `epoch` after `after_seq` until about `events_max` events (at most one entry
    more) or `up_to`.

    Pages grow from small, since an entry carries 1 to 1,000 events: memory stays near `events_max`
    events either way.
    """
    run = Run(epoch, after_seq, after_seq)
    entries_seen, page = 0, _PAGE_FIRST
    while True:
        taken = run.last_seq - after_seq
        if taken:
            events_per_entry = max(1, taken // max(1, entries_seen))
            page = min(page * 4, max(1, (events_max - taken) // events_per_entry), _PAGE_MAX)
        page = min(page, events_max)
        raw: RawEntries = await redis.xrange(
            events_key, f"({epoch}-{run.last_seq}", f"{epoch}-{up_to}", count=page
        )
        for entry_id, fields in raw:
            run.add(parse_entry(entry_id, fields, run.last_seq))
            entries_seen += 1
            if run.last_seq - after_seq >= events_max:
                return run
        if len(raw) < page:
            return run


ReadRun = Callable[[int, int], Awaitable[Run]]
"""(epoch, after_seq) -> the next run: lets settle be told where to read."""
