"""Reads a bounded, contiguous run of entries after a watermark."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.fingerprint import fingerprint
from taximeter.settler.books.stores import DATA_FORMAT
from taximeter.settler.settling.events import BadLine, Event, parse_entry, parse_id, parse_time

_SEQ_LAST: Final = 2**64 - 1
_PAGE_FIRST: Final = 16
_PAGE_MAX: Final = 4_096
_RUN_BYTES_MAX: Final = 16 * 2**20

_VERSION: Final = re.compile(rb"v[1-9][0-9]{0,3}")

Fields = dict[bytes, bytes]


class NewerEvents(Exception):
    """The next events of a shard are written as only a newer release reads them. They stay where
    they are until its settler comes to them.
    """


async def _is_upgraded(redis: Any, keys: ShardKeys) -> bool:
    """Whether a newer release has put its data format down, as it does before it writes any."""
    found = await redis.hget(keys.meta, "format")
    return found is not None and found.decode() != DATA_FORMAT


def is_newer(fields: Fields) -> bool:
    """Whether an entry holds its lines under the name of another version than ours, `v1`."""
    return b"v1" not in fields and any(map(_VERSION.fullmatch, fields))


class Numbered(NamedTuple):
    """An entry as Redis has it; its events have the numbers first_seq..last_seq."""

    entry_id: bytes
    fields: Fields
    lines: int
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class Run:
    """What comes after (epoch, after_seq). Every number up to last_seq is an event, a bad line or
    in a hole. `full`: reading stopped at a bound, so there may be more.
    """

    epoch: int
    after_seq: int
    last_seq: int
    entries: list[Numbered] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0
    full: bool = False

    @property
    def empty(self) -> bool:
        """True when nothing has come."""
        return self.last_seq == self.after_seq

    @property
    def lost(self) -> int:
        """How many numbers nobody has an event for."""
        return sum(last - first + 1 for first, last in self.holes)

    @property
    def last_time(self) -> datetime | None:
        """When its last event happened, by Redis; None when it has none, or its time is damaged."""
        time_ms = parse_time(self.entries[-1].fields.get(b"t", b"")) if self.entries else None
        return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)

    @property
    def fingerprint(self) -> str | None:
        """That of its last entry; None when its last numbers have none."""
        if not self.entries or self.entries[-1].last_seq != self.last_seq:
            return None
        return fingerprint(self.entries[-1].entry_id, self.entries[-1].fields)

    def add(self, entry_id: bytes, fields: Fields) -> None:
        """Take the next entry; numbers that were passed over become a hole."""
        text = fields.get(b"v1")
        lines = 1 if text is None else text.count(b"\n") + 1
        last_seq = parse_id(entry_id)[1]
        first_seq = max(self.last_seq + 1, last_seq - lines + 1)
        if first_seq > self.last_seq + 1:
            self.holes.append((self.last_seq + 1, first_seq - 1))
        self.entries.append(Numbered(entry_id, fields, lines, first_seq, last_seq))
        self.size += sum(map(len, fields.values()))
        self.last_seq = last_seq

    def parse(self) -> tuple[list[Event], list[BadLine]]:
        """Every line on its own: what can become a charge, and what cannot."""
        events: list[Event] = []
        bad_lines: list[BadLine] = []
        for entry in self.entries:
            # Numbers that were passed over belong to a hole, not to surplus lines.
            for item in parse_entry(entry.entry_id, entry.fields, entry.first_seq - 1).items:
                if isinstance(item, Event):
                    events.append(item)
                else:
                    bad_lines.append(item)
        return events, bad_lines


async def read_run(
    redis: Any, keys: ShardKeys, epoch: int, after_seq: int, events_max: int, up_to: int = _SEQ_LAST
) -> Run:
    """Read entries of `epoch` after `after_seq` until about `events_max` events (at most one entry
    more), 16 MiB, or `up_to`.

    Pages grow from small, since an entry carries 1 to 1,000 events: memory stays near `events_max`
    events either way. An entry of a newer release ends the run; none is taken for one unless the
    shard's data format is another than ours. Raises NewerEvents when it is the first.
    """
    run = Run(epoch, after_seq, after_seq)
    page = _PAGE_FIRST
    while True:
        taken = run.last_seq - after_seq
        if taken:
            seen = len(run.entries)
            page = min(
                page * 4,
                max(1, (events_max - taken) * seen // taken),
                max(1, (_RUN_BYTES_MAX - run.size) * seen // max(1, run.size)),
                _PAGE_MAX,
            )
        page = min(page, events_max)
        raw: list[tuple[bytes, Fields]] = await redis.xrange(
            keys.events, f"({epoch}-{run.last_seq}", f"{epoch}-{up_to}", count=page
        )
        for entry_id, fields in raw:
            if is_newer(fields) and await _is_upgraded(redis, keys):
                if run.empty:
                    raise NewerEvents(f"{entry_id.decode()} is of a newer release; update this one")
                return run
            run.add(entry_id, fields)
            if run.last_seq - after_seq >= events_max or run.size >= _RUN_BYTES_MAX:
                run.full = True
                return run
        if len(raw) < page:
            return run
