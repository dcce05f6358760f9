"""Reads both stores so that they can be compared while everything runs: Postgres at one snapshot,
Redis cut by cut.

For an account at a cut after event S, with its last applied entry A; and a Postgres snapshot with
watermark W and last entry N:

    available + held = remaining - entries in (A, N] + entries in (N, A] - events in (W, S]

Every term belongs to exactly one moment, so traffic, settling and relaying at full speed cannot
make a false difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import account_field
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.settling.stream import read_run

_SQL: Final = load_queries("reconcile")
_SNAPSHOT: Final = load_script("snapshot")
_EVENTS_PER_READ: Final = 5_000
_NO_HOLDS: Final = (0, 0, 0)


class CutMoved(Exception):
    """The shard changed its epoch, or forgot events, between the two readings. Look again."""


@dataclass(frozen=True, slots=True)
class Live:
    """An account in Redis. Millicredits; applied is its last entry."""

    available: int
    held: int
    applied: int

    @classmethod
    def parse(cls, record: bytes) -> Live:
        """Raises ValueError for a damaged record."""
        available, held, applied = record.decode().split(" ")
        return cls(int(available), int(held), int(applied))


@dataclass(frozen=True, slots=True)
class AccountCut:
    """One account at a cut. live is None when Redis does not have it, or (with damaged) when it
    cannot be read.

    remaining: of the snapshot. entries: what the applied number adds to it or takes from it.
    unsettled: charges of events after the watermark. holds: sum of its open holds, None when they
    were too many to be read at the cut; open_holds: how many they are. counted: the same as Redis
    counts it.
    """

    org_id: str
    user_id: str
    live: Live | None
    damaged: bool
    remaining: int
    entry_seq: int
    hint: int
    entries: int
    entries_age_s: float
    unsettled: int
    holds: int | None
    foreign_holds: int = 0
    open_holds: int = 0
    counted: int = 0

    @property
    def account(self) -> str:
        """Its name in Redis."""
        return account_field(self.org_id, self.user_id)

    @property
    def expected(self) -> int:
        """What available + held should be."""
        return self.remaining + self.entries - self.unsettled


@dataclass(slots=True)
class ShardCut:
    """What was seen of a shard while its accounts were read, and its unsettled events so far by
    account.
    """

    shard: int
    epoch: int
    watermark: int
    seq: int = 0
    read_to: int = 0
    holds_count: int = 0
    deadlines_count: int = 0
    overdue_ms: int = 0
    holds_judged: bool = True
    unsettled_events: int = 0
    unreadable_events: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    unsettled: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.seq = self.read_to = self.watermark


async def cut_accounts(
    stores: Stores, cut: ShardCut, rows: Sequence[asyncpg.Record], holds_limit: int
) -> list[AccountCut]:
    """Read at most 1,000 accounts of one shard at one cut. `rows` are of the Postgres snapshot.
    Raises CutMoved.
    """
    keys = stores.keys(cut.shard)
    names = [account_field(row["org_id"], row["user_id"]) for row in rows]
    answer = await _SNAPSHOT.call(
        stores.redis,
        [keys.accounts, keys.holds, keys.deadlines, keys.meta, keys.open_holds],
        [cut.epoch, holds_limit, *names],
    )
    seq, now_ms, first_deadline_ms = int(answer[0]), int(answer[1]), int(answer[4])
    cut.seq, cut.holds_count, cut.deadlines_count = seq, int(answer[2]), int(answer[3])
    if first_deadline_ms >= 0:
        cut.overdue_ms = max(cut.overdue_ms, now_ms - first_deadline_ms)
    await read_events(stores, cut, seq)
    holds = _sum_holds(answer[6]) if answer[6] is not None else None
    cut.holds_judged = cut.holds_judged and holds is not None
    lives = [_parse(record) for record in answer[5]]
    sums = await _entry_sums(stores, rows, [live for live, _ in lives])
    return [
        AccountCut(
            org_id=row["org_id"],
            user_id=row["user_id"],
            live=live,
            damaged=damaged,
            remaining=row["remaining"],
            entry_seq=row["entry_seq"],
            hint=row["applied_seq"],
            entries=sums.get(name, (0, 0.0))[0],
            entries_age_s=sums.get(name, (0, 0.0))[1],
            unsettled=cut.unsettled.get(name, 0),
            holds=None if holds is None else holds.get(name, _NO_HOLDS)[0],
            foreign_holds=0 if holds is None else holds.get(name, _NO_HOLDS)[1],
            open_holds=0 if holds is None else holds.get(name, _NO_HOLDS)[2],
            counted=_count(count) + (live is not None and live.held > 0),
        )
        for row, name, (live, damaged), count in zip(rows, names, lives, answer[7], strict=True)
    ]


def _count(text: bytes | None) -> int:
    """How many holds are counted but for one; far from all truth for what is no number."""
    if text is None:
        return 0
    return int(text) if text.isdigit() else -(10**6)


def _parse(record: bytes | None) -> tuple[Live | None, bool]:
    if record is None:
        return None, False
    try:
        return Live.parse(record), False
    except ValueError:
        return None, True


async def read_events(stores: Stores, cut: ShardCut, up_to: int) -> None:
    """Add the events up to seq `up_to` to the sums; they are all there, since the cut was after
    them. Raises CutMoved.
    """
    while cut.read_to < up_to:
        run = await read_run(
            stores.redis,
            stores.keys(cut.shard),
            cut.epoch,
            cut.read_to,
            _EVENTS_PER_READ,
            up_to,
        )
        if run.empty:
            run.last_seq = up_to
            run.holes.append((cut.read_to + 1, up_to))
        if run.holes:
            mark = await stores.pool.fetchrow(_SQL["mark_now"], cut.shard)
            if mark is None or (mark["epoch"], mark["seq"]) != (cut.epoch, cut.watermark):
                # They may have been settled and trimmed since the snapshot.
                raise CutMoved(f"shard {cut.shard} forgot events while it was read")
            cut.holes += run.holes
        events, bad_lines = run.parse()
        for event in events:
            cut.unsettled[account_field(event.org_id, event.user_id)] += event.amount
        for bad in bad_lines:
            # What settle will give back counts as taken until then.
            if bad.org_id and bad.user_id and bad.amount:
                cut.unsettled[account_field(bad.org_id, bad.user_id)] += bad.amount
        cut.unsettled_events += len(events)
        cut.unreadable_events += len(bad_lines)
        cut.read_to = run.last_seq


def _sum_holds(flat: Sequence[bytes]) -> dict[str, tuple[int, int, int]]:
    """By account: the sum of its open holds, how many of them are keyed under another organisation,
    and how many there are.
    """
    sums: dict[str, tuple[int, int, int]] = {}
    for key, record in zip(flat[::2], flat[1::2], strict=True):
        account, amount = parse_hold(record)
        foreign = key.decode().partition("/")[0] != account.partition("/")[0]
        total, strangers, count = sums.get(account, _NO_HOLDS)
        sums[account] = (total + amount, strangers + foreign, count + 1)
    return sums


def parse_hold(record: bytes) -> tuple[str, int]:
    """(account, amount in millicredits) of an open hold; ("", 0) for a record that cannot be
    read.
    """
    try:
        hold = HoldRecord.parse(record)
    except ValueError:
        return "", 0
    return hold.account, hold.amount


async def _entry_sums(
    stores: Stores, rows: Sequence[asyncpg.Record], lives: Sequence[Live | None]
) -> dict[str, tuple[int, float]]:
    """By account: the entries between what the snapshot has and what the live account has applied,
    with their sign.
    """
    wanted = [
        (row["org_id"], row["user_id"], row["entry_seq"], live.applied)
        for row, live in zip(rows, lives, strict=True)
        if live is not None and live.applied != row["entry_seq"]
    ]
    if not wanted:
        return {}
    found = await stores.pool.fetch(
        _SQL["entry_sums"],
        [item[0] for item in wanted],
        [item[1] for item in wanted],
        [min(item[2], item[3]) for item in wanted],
        [max(item[2], item[3]) for item in wanted],
    )
    behind = {(item[0], item[1]) for item in wanted if item[3] < item[2]}
    sums = {}
    for row in found:
        late = (row["org_id"], row["user_id"]) in behind
        sums[account_field(row["org_id"], row["user_id"])] = (
            -row["delta"] if late else row["delta"],
            row["oldest_age_s"] if late else 0.0,
        )
    return sums
