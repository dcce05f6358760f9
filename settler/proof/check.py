"""Proves the books at a consistent cut, while everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import read_uncharged
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.proof.consistent_cut import ShardCut
from taximeter.settler.proof.holds_scan import compare_holds
from taximeter.settler.proof.invariants import TITLES, Invariant, sql_invariants
from taximeter.settler.proof.reconcile import Books, ReconcileLimits, reconcile

_SQL: Final = load_queries("reconcile")


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """What check tolerates and how much it reads at one cut."""

    holds_limit: int = 5_000
    hold_grace_s: float = 60.0
    entry_age_max_s: float = 60.0
    loss_alarm_s: float = 604_800.0


@dataclass(frozen=True, slots=True)
class Report:
    """Every invariant with its figures, in a fixed order."""

    invariants: list[Invariant]

    @property
    def holds(self) -> bool:
        """True when no invariant is violated."""
        return all(invariant.holds for invariant in self.invariants)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "holds": self.holds,
            "invariants": [
                {
                    "name": one.name,
                    "title": one.title,
                    "holds": one.holds,
                    "figures": one.figures,
                    "violations": one.violations,
                    "when_this_fires": one.fires,
                    "could_not_be_judged": one.unjudged,
                }
                for one in self.invariants
            ],
        }


async def check(stores: Stores, limits: CheckLimits | None = None) -> Report:
    """Read everything and judge it; changes nothing. Holds while traffic, settling and relaying go
    on.

    Raises CouldNotLook when a shard is closed or keeps moving, asyncpg and redis errors when a
    store is away.
    """
    limits = limits or CheckLimits()
    found = {name: Invariant(name) for name in TITLES}
    async with (
        stores.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        # One snapshot for the live comparison and for every query on the books.
        books = await reconcile(
            stores, ReconcileLimits(limits.holds_limit, limits.entry_age_max_s), conn
        )
        await _sql(conn, found)
        await _events(conn, found["I4"], books.shards, limits.loss_alarm_s)
        await _conservation(conn, found["I7"], books)
    _live(found, books)
    await _holds(stores, found["I6"], books, limits)
    return Report(list(found.values()))


def _live(found: Mapping[str, Invariant], books: Books) -> None:
    for suspect in sorted(books.suspects):
        found[suspect.invariant].violate(str(suspect))
    totals = books.totals
    found["I1"].figures |= {
        "accounts": totals.accounts,
        "accounts_in_redis": totals.loaded,
        "available_and_held": totals.live,
        "expected": totals.expected,
    }
    found["I11"].figures |= {"unapplied_millicredits": totals.unapplied}
    found["I13"].figures |= {"shards": len(books.shards)}


async def _sql(conn: Connection, found: Mapping[str, Invariant]) -> None:
    for query in sql_invariants():
        invariant = found[query.invariant]
        invariant.figures["queries"] = invariant.figures.get("queries", 0) + 1
        for row in await conn.fetch(query.sql):
            invariant.violate(row["violation"], query.fires)


async def _events(
    conn: Connection, invariant: Invariant, cuts: list[ShardCut], loss_alarm_s: float
) -> None:
    """I4: {1..S} is settled, set aside, written down as lost or in the stream, and the rows are
    there.
    """
    figures = dict.fromkeys(
        ("events", "settled", "set_aside", "lost", "in_stream", "deleted_by_hand", "acknowledged"),
        0,
    )
    for row in await conn.fetch(_SQL["event_counts"]):
        cut = cuts[row["shard"]]
        shard = f"shard {row['shard']} epoch {row['epoch']}"
        figures["events"] += cut.seq
        figures["settled"] += row["settled_events"]
        figures["set_aside"] += row["dead_events"]
        figures["lost"] += row["lost_events"]
        figures["in_stream"] += cut.unsettled_events + cut.unreadable_events
        if cut.seq < row["seq"]:
            invariant.violate(f"{shard}: settled up to {row['seq']}, Redis is at {cut.seq}")
        figures["deleted_by_hand"] += row["deleted"]
        figures["acknowledged"] += row["acknowledged"]
        # What somebody has deleted is on record, organisation by organisation: whatever happened
        # elsewhere explains no charge that is missing here.
        missing = row["settled_events"] - row["charged_rows"] - row["deleted"] - row["acknowledged"]
        if missing > 0:
            invariant.violate(f"{shard}: {missing} settled events have no charge on record")
        elif missing < 0:
            invariant.violate(
                f"{shard}: {row['charged_rows']} charges on record, {row['deleted']} deleted and "
                f"{row['acknowledged']} acknowledged stand for {row['settled_events']} settled "
                f"events"
            )
        for what, rows, counted in (
            ("set aside", row["dead_rows"], row["dead_events"]),
            ("lost", row["lost_rows"], row["lost_events"]),
        ):
            if rows != counted:
                invariant.violate(f"{shard}: {counted} events were {what}, {rows} are on record")
        for first, last in cut.holes:
            invariant.violate(f"{shard}: events {first} to {last} are not in the stream")
    for row in await conn.fetch(_SQL["numbers_used_twice"]):
        invariant.violate(row["violation"])
    figures["lost_ever"] = 0
    for row in await conn.fetch(_SQL["losses"], loss_alarm_s):
        figures["lost_ever"] += row["seq_last"] - row["seq_first"] + 1
        if row["alarming"]:
            invariant.violate(
                f"shard {row['shard']} epoch {row['epoch']}: events {row['seq_first']} to "
                f"{row['seq_last']}"
                f" are lost, found {row['found_at']:%Y-%m-%d %H:%M:%S} UTC"
            )
    invariant.figures |= figures


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A loss that somebody has looked at. `lost`: events from `seq_first` on, which Redis lost;
    `uncharged`: so many settled events of an epoch have no charge.
    """

    what: str
    shard: int
    epoch: int
    seq_first: int | None
    events: int


async def acknowledge(stores: Stores, note: str) -> list[Acknowledged]:
    """Write down, with a note, that every loss which I4 knows is known to somebody: from now on
    `check` shows them and does not fail for them. The next loss is an alarm again. Durable on
    return; what was acknowledged before stays as it was. Raises asyncpg errors.
    """
    async with stores.pool.acquire() as conn, conn.transaction():
        rows = await conn.fetch(_SQL["acknowledge_losses"], note)
        rows += await conn.fetch(_SQL["acknowledge_uncharged"], note)
    return [Acknowledged(**dict(row)) for row in rows]


async def _conservation(conn: Connection, invariant: Invariant, books: Books) -> None:
    """I7: what was bought = free in pools + live + on its way + used."""
    pools = (await conn.fetch(_SQL["totals"]))[0]
    remaining = await conn.fetchval(_SQL["remaining_total"])
    totals = books.totals
    # Live balances as Postgres would have them once everything is settled and relayed.
    settled_live = remaining + totals.live - totals.expected
    difference = pools["total"] - pools["free"] - settled_live - pools["used"]
    invariant.figures |= {
        "bought": pools["total"],
        "free": pools["free"],
        "live": totals.live,
        "unsettled": totals.unsettled,
        "unapplied": totals.unapplied,
        "used": pools["used"],
        "pools_overdrawn": pools["overdrawn_pools"],
        "accounts_overdrawn": totals.overdrawn_accounts,
        "overdrawn": totals.overdrawn,
    }
    # A drift that was seen only once is traffic that this look could not pin down; I1 has already
    # looked twice.
    if difference and (books.suspects or totals.live == totals.expected):
        invariant.violate(f"bought less everything else comes to {difference} millicredits")


async def _holds(stores: Stores, invariant: Invariant, books: Books, limits: CheckLimits) -> None:
    figures = {"open_holds": 0, "held": books.totals.held, "accounts_not_judged": 0}
    figures |= {"uncharged_holds": 0, "uncharged": 0}
    for cut in books.shards:
        holds, amount = await read_uncharged(stores, cut.shard)
        figures["uncharged_holds"] += holds
        figures["uncharged"] += amount
        figures["open_holds"] += cut.holds_count
        if cut.holds_count != cut.deadlines_count:
            invariant.violate(
                f"shard {cut.shard}: {cut.holds_count} open holds, {cut.deadlines_count} deadlines"
            )
        if cut.overdue_ms > limits.hold_grace_s * 1000:
            invariant.violate(
                f"shard {cut.shard}: a hold is {cut.overdue_ms // 1000} s past its deadline"
            )
        if not cut.holds_judged:
            comparison = await compare_holds(stores, cut.shard)
            figures["accounts_not_judged"] += comparison.unjudged
            for account, figure in sorted(comparison.differences.items()):
                invariant.violate(f"{account}: held less the sum of its open holds ({figure})")
            invariant.unjudged = (
                f"more than {limits.holds_limit} open holds, so they were read twice and not at a "
                f"cut;"
                f" {figures['accounts_not_judged']} accounts moved meanwhile and were not judged"
            )
    invariant.figures |= figures
