"""Proves the books at a consistent cut, while everything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from taximeter.settler.archive.compare import compare_archives
from taximeter.settler.archive.places import Place
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import read_uncharged
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.proof.consistent_cut import ShardCut
from taximeter.settler.proof.holds_scan import compare_holds
from taximeter.settler.proof.invariants import (
    BEGINNING,
    EVERYTHING,
    TITLES,
    Invariant,
    Span,
    sql_invariants,
)
from taximeter.settler.proof.reconcile import Books, ReconcileLimits, reconcile
from taximeter.settler.proof.seals import State, Told, prove_all, read_state

_SQL: Final = load_queries("reconcile")
_ARCHIVE: Final = load_queries("archive")
_SEALS: Final = load_queries("seals")
_OF_REDIS: Final = ("I1", "I4", "I6", "I7", "I11", "I13")
"""What nobody can prove without a look at each shard."""


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """What check tolerates and how much it reads at one cut. `full`: it reads what is sealed as
    well, and trusts no seal.
    """

    holds_limit: int = 5_000
    hold_grace_s: float = 60.0
    entry_age_max_s: float = 60.0
    loss_alarm_s: float = 604_800.0
    archived_files: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Every invariant with its figures, in a fixed order, how far rows are sealed, and what the
    live accounts came to.
    """

    invariants: list[Invariant]
    sealed: State | None = None
    books: Books | None = None

    def __getitem__(self, name: str) -> Invariant:
        """The invariant of this name. Raises StopIteration for one that is none."""
        return next(one for one in self.invariants if one.name == name)

    @property
    def holds(self) -> bool:
        """True when no invariant is violated."""
        return all(invariant.holds for invariant in self.invariants)

    @property
    def proved(self) -> bool | None:
        """Whether the books are right; None when nothing that was read is wrong, and something
        could not be read.
        """
        if self.holds and any(invariant.unread for invariant in self.invariants):
            return None
        return self.holds

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "holds": self.proved,
            "seals": None if self.sealed is None else self.sealed.as_dict(),
            "invariants": [
                {
                    "name": one.name,
                    "title": one.title,
                    "holds": None if one.holds and one.unread else one.holds,
                    "figures": one.figures,
                    "violations": one.violations,
                    "when_this_fires": one.fires,
                    "could_not_be_judged": one.unjudged,
                    "could_not_be_read": one.unread,
                }
                for one in self.invariants
            ],
        }


async def check(
    stores: Stores,
    limits: CheckLimits | None = None,
    archive: Place | None = None,
    told: Told | None = None,
) -> Report:
    """Read the live accounts and the books, and judge them; changes nothing. Holds while traffic,
    settling and relaying go on. Rows that are sealed are not read again, unless `limits.full` says
    so: then `told` is called after each month. Of an archive its manifests are read;
    `limits.archived_files` reads all of it. What is in shards of a server of several that does not
    answer is not proved.

    Raises CouldNotLook when a shard is closed or keeps moving, asyncpg and redis errors when a
    store is away.
    """
    limits = limits or CheckLimits()
    found = {name: Invariant(name) for name in TITLES}
    async with (
        stores.pool.acquire() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        await conn.execute(_SEALS["read_much"])
        # One snapshot for the live comparison and for every query on the books.
        books = await reconcile(
            stores, ReconcileLimits(limits.holds_limit, limits.entry_age_max_s), conn
        )
        sealed = await read_state(conn)
        spans = [EVERYTHING] if limits.full else sealed.spans
        await _sql(conn, found, spans)
        since = BEGINNING if sealed.counts_all_charges else spans[-1].moments[0]
        await _events(conn, found["I4"], books.shards, limits.loss_alarm_s, since)
        await _seals(conn, found["I16"], sealed, told if limits.full else None, limits.full)
        await _conservation(conn, found["I7"], books)
        await _archives(conn, found["I2"], archive, limits.archived_files)
    _live(found, books)
    for shard, server in books.away.items():
        for name in _OF_REDIS:
            found[name].unread.append(f"shard {shard}: {server} does not answer")
    await _holds(stores, found["I6"], books, limits)
    return Report(list(found.values()), sealed, books)


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


async def _sql(conn: Connection, found: Mapping[str, Invariant], spans: Sequence[Span]) -> None:
    for query in sql_invariants():
        invariant = found[query.invariant]
        invariant.figures["queries"] = invariant.figures.get("queries", 0) + 1
        for span in spans if query.is_of_a_span else (EVERYTHING,):
            for row in await conn.fetch(query.within(span)):
                violation: str = row["violation"]
                # What was found when a sealed day was read again names its invariant.
                name, _, said = violation.partition(": ")
                named = found.get(name) if query.invariant == "I16" else None
                if named is None:
                    invariant.violate(violation, query.fires)
                else:
                    named.violate(said, query.fires)


async def _seals(
    conn: Connection, invariant: Invariant, sealed: State, told: Told | None, full: bool
) -> None:
    """I16: what is sealed is as it was, which only reading all of it shows."""
    row = (await conn.fetch(_SEALS["figures"]))[0]
    invariant.figures |= {"seals": sealed.n, **dict(row.items())}
    invariant.figures["rows_new"] = await conn.fetchval(
        _SEALS["rows_new"], Span(sealed.sealed_until).moments[0]
    )
    if full:
        for said in await prove_all(conn, sealed, told):
            invariant.violate(said)


async def _events(
    conn: Connection,
    invariant: Invariant,
    cuts: list[ShardCut],
    loss_alarm_s: float,
    since: str,
) -> None:
    """I4: {1..S} is settled, set aside, written down as lost or in the stream, and the rows are
    there: those of before `since` by their seals.
    """
    figures = dict.fromkeys(
        (
            "events",
            "settled",
            "set_aside",
            "lost",
            "in_stream",
            "deleted_by_hand",
            "acknowledged",
            "forgotten",
        ),
        0,
    )
    for row in await conn.fetch(_SQL["event_counts"], since):
        cut = cuts[row["shard"]]
        if cut.away is not None:
            continue
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
        figures["forgotten"] += row["forgotten"]
        # What somebody has deleted is on record, organisation by organisation: whatever happened
        # elsewhere explains no charge that is missing here.
        explained = row["deleted"] + row["acknowledged"] + row["forgotten"]
        missing = row["settled_events"] - row["charged_rows"] - explained
        if missing > 0:
            invariant.violate(f"{shard}: {missing} settled events have no charge on record")
        elif missing < 0:
            invariant.violate(
                f"{shard}: {row['charged_rows']} charges on record, {row['deleted']} deleted, "
                f"{row['acknowledged']} acknowledged and {row['forgotten']} forgotten stand for "
                f"{row['settled_events']} settled events"
            )
        for what, rows, counted in (
            ("set aside", row["dead_rows"], row["dead_events"]),
            ("lost", row["lost_rows"], row["lost_events"]),
        ):
            if rows != counted:
                invariant.violate(f"{shard}: {counted} events were {what}, {rows} are on record")
        for first, last in cut.holes:
            invariant.violate(f"{shard}: events {first} to {last} are not in the stream")
    for row in await conn.fetch(_SQL["numbers_used_twice"], since):
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
    if books.away:
        return  # What is live there is in neither sum.
    if difference and (books.suspects or totals.live == totals.expected):
        invariant.violate(f"bought less everything else comes to {difference} millicredits")


async def _archives(
    conn: Connection, invariant: Invariant, place: Place | None, files: bool
) -> None:
    """I2: what has left Postgres is in the archive, as much as was noted of it."""
    archived = (await conn.fetch(_ARCHIVE["count_parts"]))[0]
    if not archived["parts"]:
        return
    invariant.figures["archived_rows"] = archived["requests"]
    if place is None:
        invariant.unread.append("TAXIMETER_ARCHIVE_URL is not set here: no archive was looked at")
        return
    compared = await compare_archives(conn, place, files=files)
    invariant.unread += [f"archive: {one}" for one in compared.unread]
    for wrong in compared.wrong:
        invariant.violate(f"archive: {wrong}", "a file of the archive was removed or altered.")


async def _holds(stores: Stores, invariant: Invariant, books: Books, limits: CheckLimits) -> None:
    figures = {"open_holds": 0, "held": books.totals.held, "accounts_not_judged": 0}
    figures |= {"uncharged_holds": 0, "uncharged": 0}
    for cut in books.shards:
        if cut.away is not None:
            continue
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
