"""Compares every live account with the books, and says what still differs at a second look. It
repairs nothing.

A repair changes money, so it is a decision of people: what this finds is logged and fails `check`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import asyncpg
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.places.deadline import altogether
from taximeter.meter.wire.keys import shard_of, split_account
from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import parse_hold, scan_hash
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import Mark, read_marks
from taximeter.settler.proof.consistent_cut import AccountCut, ShardCut, cut_accounts
from taximeter.settler.settling.stream import NewerEvents
from taximeter.settler.settling.unsettled import EventsForgotten

_SQL: Final = load_queries("reconcile")
_PAGE_ACCOUNTS: Final = 500
_SCAN_COUNT: Final = 500
_LOOKS_MAX: Final = 5
_SUSPECTS_MAX: Final = 1_000
_PAUSE_S: Final = 0.1
ANSWER_S = 1.0
"""How long one server of several is waited for before its shards are left out."""


_FENCED: Final = "FENCED "


class CouldNotLook(Exception):
    """The books could not be read at a consistent cut, so nothing is said about them. The message
    has the reason.
    """


class Suspect(NamedTuple):
    """A difference at one account: which invariant, what is wrong, and by how much."""

    invariant: str
    account: str
    problem: str
    figure: int

    def __str__(self) -> str:
        return f"{self.account}: {self.problem} ({self.figure})"


@dataclass(slots=True)
class Totals:
    """Sums over all accounts, millicredits. An account that Redis does not have counts with what
    Postgres has.
    """

    accounts: int = 0
    loaded: int = 0
    live: int = 0
    held: int = 0
    expected: int = 0
    unapplied: int = 0
    unsettled: int = 0
    overdrawn_accounts: int = 0
    overdrawn: int = 0


@dataclass(slots=True)
class Books:
    """What one look came to."""

    shards: list[ShardCut] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    suspects: set[Suspect] = field(default_factory=set)

    @property
    def away(self) -> dict[int, str]:
        """The shards that nothing is said of, since their server of several does not answer."""
        return {cut.shard: cut.away for cut in self.shards if cut.away is not None}


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """What is read: more holds than holds_limit are not read at the cut; an entry may wait
    entry_age_max_s.
    """

    holds_limit: int = 5_000
    entry_age_max_s: float = 60.0


async def reconcile(
    stores: Stores, limits: ReconcileLimits, conn: Connection | None = None
) -> Books:
    """Look at every account, and a second time at those that differ; only differences seen twice
    and alike remain.

    With `conn`, the first look uses its transaction, which must be REPEATABLE READ, so that a
    caller can compare more with the same snapshot. Shards of a server of several that does not
    answer are left out, and named in `away`. Raises CouldNotLook, asyncpg errors, redis errors when
    no server answers. Changes nothing.
    """
    books = await _look_until_still(stores, limits, None, conn)
    if books.suspects:
        await asyncio.sleep(_PAUSE_S)
        named = sorted({suspect.account for suspect in books.suspects})[:_SUSPECTS_MAX]
        again = await _look_until_still(stores, limits, named, None)
        books.suspects &= again.suspects
    return books


async def _look_until_still(
    stores: Stores, limits: ReconcileLimits, only: Sequence[str] | None, conn: Connection | None
) -> Books:
    """Look; again when a shard moved to a new epoch or forgot events meanwhile."""
    reason = ""
    for attempt in range(_LOOKS_MAX):
        try:
            if conn is not None and attempt == 0:
                return await _look(conn, stores, limits, only)
            async with (
                stores.pool.acquire() as own,
                own.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await _look(own, stores, limits, only)
        except (EventsForgotten, NewerEvents, ResponseError) as error:
            reason = str(error)
        except (RedisError, OSError) as error:
            if not stores.server_name(0):
                raise
            reason = f"{type(error).__name__} {error}".rstrip()
        await asyncio.sleep(_PAUSE_S)
    if reason.startswith(_FENCED):
        reason = f"{reason.removeprefix(_FENCED)}; is a settler running?"
    raise CouldNotLook(reason)


async def _look(
    conn: Connection, stores: Stores, limits: ReconcileLimits, only: Sequence[str] | None
) -> Books:
    books = Books()
    marks = (await read_marks(conn)).values()
    if not marks:
        raise CouldNotLook("Postgres has no shards yet: the settler has never run")
    away: dict[str, Exception] = {}
    for mark in marks:
        books.shards.append(await _begin(stores, mark, away))
    if len(books.away) == len(books.shards):
        raise next(iter(away.values()))
    seen: set[str] = set()
    async for rows in _pages(conn, only):
        by_shard: dict[int, list[asyncpg.Record]] = {}
        for row in rows:
            by_shard.setdefault(shard_of(row["org_id"], len(books.shards)), []).append(row)
        for shard, of_shard in by_shard.items():
            of_all = books.shards[shard]
            if of_all.away is not None:
                continue
            for one in await cut_accounts(stores, of_all, of_shard, limits.holds_limit):
                _add(books, one, limits, of_all.hints_due)
                seen.add(one.account)
    for shard_cut in books.shards:
        if shard_cut.away is not None:
            continue
        # Also the shards without accounts, and the last events of the others, have a cut.
        await cut_accounts(stores, shard_cut, [], limits.holds_limit)
        await _find_orphans(stores, books, shard_cut, seen, only)
        await _find_strangers(stores, books, shard_cut, seen, only)
    return books


async def _begin(stores: Stores, mark: Mark, away: dict[str, Exception]) -> ShardCut:
    """Nothing is seen yet. `away` are servers of several that have not answered, and why."""
    cut = ShardCut(mark.shard, mark.epoch, mark.seq)
    server = stores.server_name(mark.shard)
    if server not in away:
        try:
            async with altogether(ANSWER_S if server else None):
                (due,) = await stores.redis.hmget(stores.keys(mark.shard).meta, "hints_due")
        except (RedisError, OSError) as error:
            if not server:
                raise
            away[server] = error
        else:
            cut.hints_due = due is not None
    cut.away = server if server in away else None
    return cut


async def _pages(
    conn: Connection, only: Sequence[str] | None
) -> AsyncIterator[list[asyncpg.Record]]:
    """The accounts of the snapshot, all or those of these names, a bounded page at a time."""
    if only is not None:
        accounts = [account for account in map(_account_of, only) if account is not None]
        for start in range(0, len(accounts), _PAGE_ACCOUNTS):
            part = accounts[start : start + _PAGE_ACCOUNTS]
            yield await conn.fetch(
                _SQL["accounts_named"], [org for org, _ in part], [user for _, user in part]
            )
        return
    after: Account = ("", "")
    while True:
        rows = await conn.fetch(_SQL["accounts_page"], *after, _PAGE_ACCOUNTS)
        if rows:
            yield rows
        if len(rows) < _PAGE_ACCOUNTS:
            return
        after = (rows[-1]["org_id"], rows[-1]["user_id"])


def _add(books: Books, cut: AccountCut, limits: ReconcileLimits, hints_due: bool) -> None:
    """Judge one account and add it to the totals."""
    totals, live = books.totals, cut.live
    totals.accounts += 1
    totals.expected += cut.expected
    totals.unsettled += cut.unsettled
    totals.unapplied -= min(0, cut.entries)

    def suspect(invariant: str, problem: str, figure: int) -> None:
        books.suspects.add(Suspect(invariant, cut.account, problem, figure))

    if live is None:
        totals.live += cut.expected
        if cut.damaged:
            suspect("I1", "the live record cannot be read", 0)
        elif cut.unsettled:
            suspect("I1", "not in Redis although it has unsettled charges of", cut.unsettled)
        return
    totals.loaded += 1
    totals.live += live.available + live.held
    totals.held += live.held
    totals.overdrawn_accounts += live.available < 0
    totals.overdrawn -= min(0, live.available)
    drift = live.available + live.held - cut.expected
    if drift:
        suspect("I1", "live balance less what the books say", drift)
    if cut.holds is not None and cut.holds != live.held:
        suspect("I6", "held less the sum of its open holds", live.held - cut.holds)
    if cut.holds is not None and cut.open_holds != cut.counted:
        suspect(
            "I6", "holds that are counted less those that are open", cut.counted - cut.open_holds
        )
    if cut.foreign_holds:
        suspect("I13", "holds that are keyed under another organisation", cut.foreign_holds)
    if live.applied < cut.hint and not hints_due:
        suspect(
            "I11", "entries the relay takes for applied and Redis does not", cut.hint - live.applied
        )
    if live.applied < cut.entry_seq and cut.entries_age_s > limits.entry_age_max_s:
        suspect("I11", "entries that wait for too long", cut.entry_seq - live.applied)


async def _find_orphans(
    stores: Stores, books: Books, cut: ShardCut, seen: set[str], only: Sequence[str] | None
) -> None:
    """Open holds that name no account, or one that the snapshot does not have: nobody goes on with
    them. One of nothing may be of an account that has no entry yet.
    """
    if not cut.holds_judged:
        return  # They are too many; whoever reads them twice meets these as well.
    held: dict[str, int] = {}
    for record in (await scan_hash(stores.redis, stores.keys(cut.shard).holds)).values():
        name, amount = parse_hold(record)
        held[name] = held.get(name, 0) + amount
    for name, amount in held.items():
        if name in seen or (only is not None and name not in only):
            continue
        if amount or _account_of(name) is None:
            books.suspects.add(Suspect("I6", name, "open holds of an account that is none", amount))


async def _find_strangers(
    stores: Stores, books: Books, cut: ShardCut, seen: set[str], only: Sequence[str] | None
) -> None:
    """Accounts in Redis that the snapshot does not have or that belong elsewhere, and numbers
    beyond those given.
    """
    wanted = None if only is None else set(only)
    cursor = 0
    while True:
        cursor, page = await stores.redis.hscan(
            stores.keys(cut.shard).accounts, cursor, count=_SCAN_COUNT
        )
        names: list[Account] = []
        applied: dict[Account, int] = {}
        for field_name, record in page.items():
            name = field_name.decode("utf-8", "backslashreplace")
            if wanted is not None and name not in wanted:
                continue
            account, number = _account_of(name), record.rsplit(b" ", 1)[-1]
            is_name = (
                name.encode() == field_name and "\0" not in name
            )  # Which Postgres cannot have.
            if account is None or not is_name or not number.isdigit():
                books.suspects.add(Suspect("I1", name, "not a name and a record of an account", 0))
                continue
            applied[account] = int(number)
            names.append(account)
            if shard_of(account[0], len(books.shards)) != cut.shard:
                books.suspects.add(Suspect("I13", name, "it is in the keys of shard", cut.shard))
        if names:
            rows = await stores.pool.fetch(
                _SQL["entry_numbers"], [org for org, _ in names], [user for _, user in names]
            )
            known = {(row["org_id"], row["user_id"]): row["entry_seq"] for row in rows}
            for account in names:
                label = f"{account[0]}/{account[1]}"
                if account not in known:
                    # An allocation of nothing has no entry yet, and its live account has nothing
                    # either.
                    if label not in seen and page[label.encode()] != b"0 0 0":
                        books.suspects.add(Suspect("I1", label, "in Redis, unknown to Postgres", 0))
                elif applied[account] > known[account]:
                    ahead = applied[account] - known[account]
                    books.suspects.add(
                        Suspect("I11", label, "applied entries that Postgres never gave", ahead)
                    )
        if cursor == 0:
            return


def _account_of(name: str) -> Account | None:
    """None for what is not the name of an account."""
    try:
        return split_account(name)
    except ValueError:
        return None
