"""Reads both stores so that they can be compared while everything runs: Postgres at one snapshot,
Redis cut by cut.

For an account at a cut after event S, with its last applied entry A; and a Postgres snapshot with
watermark W and last entry N:

    available + held = remaining - entries in (A, N] + entries in (N, A] - events in (W, S]

Every term belongs to exactly one moment, so traffic, settling and relaying at full speed cannot
make a false difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from taximeter.meter.wire.keys import account_field
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import parse_hold
from taximeter.settler.books.stores import Stores
from taximeter.settler.settling.unsettled import UnsettledEvents, read_unsettled

_SQL: Final = load_queries("reconcile")
_SNAPSHOT: Final = load_script("snapshot")
_NO_HOLDS: Final = (0, 0, 0)


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
class ShardCut(UnsettledEvents):
    """What was seen of a shard while its accounts were read. hints_due: since it was approved
    nobody has compared yet how far its accounts are with what the relay takes for applied. away:
    the server of several that has it and does not answer; nothing of it was seen then.
    """

    seq: int = 0
    holds_count: int = 0
    deadlines_count: int = 0
    overdue_ms: int = 0
    holds_judged: bool = True
    hints_due: bool = False
    away: str | None = None

    def __post_init__(self) -> None:
        # Without super(): a dataclass with slots is made anew, and super() would ask the first one.
        UnsettledEvents.__post_init__(self)
        self.seq = self.watermark


async def cut_accounts(
    stores: Stores, cut: ShardCut, rows: Sequence[asyncpg.Record], holds_limit: int
) -> list[AccountCut]:
    """Read at most 1,000 accounts of one shard at one cut. `rows` are of the Postgres snapshot.
    Raises EventsForgotten.
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
    await read_unsettled(stores, cut, seq)
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


def _sum_holds(flat: Sequence[bytes]) -> dict[str, tuple[int, int, int]]:
    """By account: the sum of its open holds, how many of them are keyed under another organisation,
    and how many there are.
    """
    sums: dict[str, tuple[int, int, int]] = {}
    for key, record in zip(flat[::2], flat[1::2], strict=True):
        account, amount = parse_hold(record)
        name = key.decode("utf-8", "backslashreplace")
        foreign = name.partition("/")[0] != account.partition("/")[0]
        total, strangers, count = sums.get(account, _NO_HOLDS)
        sums[account] = (total + amount, strangers + foreign, count + 1)
    return sums


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
