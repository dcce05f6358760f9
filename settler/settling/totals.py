"""Adds charges to allocations and pools: once a row, in the lock order that everybody keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection

_SQL: Final = load_queries("settle")


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the charges of each account go. The rows are locked; an account that has none is in
    neither.
    """

    active: dict[Account, object]
    closed: dict[Account, object]


async def lock_allocations(conn: Connection, accounts: Iterable[Account]) -> Targets:
    """Lock the allocation of every account: the active one, else the newest closed one."""
    wanted = set(accounts)
    active = await _lock(conn, "lock_active_allocations", wanted)
    without = wanted - active.keys()
    if without:
        # An allocation may have been closed, and another opened, while the first statement waited
        # for its lock.
        active |= await _lock(conn, "lock_active_allocations", without)
        without -= active.keys()
    closed = await _lock(conn, "lock_closed_allocations", without) if without else {}
    return Targets(active, closed)


async def lock_accounts(
    conn: Connection, charged: Iterable[Account], targets: Targets, given_back: Iterable[Account]
) -> None:
    """Lock the accounts that will get an entry: those charged without an active allocation, and
    those that get something back. Usually there are none.
    """
    wanted = sorted({*given_back, *(set(charged) - targets.active.keys())})
    if wanted:
        await conn.execute(
            _SQL["lock_accounts"],
            [org_id for org_id, _ in wanted],
            [user_id for _, user_id in wanted],
        )


async def add_to_totals(conn: Connection, amounts: Mapping[Account, int], targets: Targets) -> None:
    """Add what each account was charged to its allocation and pool, once a row."""
    by_account = {account: amount for account, amount in amounts.items() if amount}
    if not by_account:
        return
    by_pool: defaultdict[str, int] = defaultdict(int)
    for (org_id, _user_id), amount in by_account.items():
        by_pool[org_id] += amount
    pools = sorted(by_pool)
    await conn.execute(_SQL["lock_pools"], pools)
    for query, rows in (("add_used", targets.active), ("add_to_closed", targets.closed)):
        charged = [
            (row, by_account[account]) for account, row in rows.items() if account in by_account
        ]
        if charged:
            await conn.execute(_SQL[query], *map(list, zip(*charged, strict=True)))
    orphans = sorted(by_account.keys() - targets.active.keys() - targets.closed.keys())
    if orphans:
        await conn.execute(
            _SQL["insert_closed"],
            [org_id for org_id, _ in orphans],
            [user_id for _, user_id in orphans],
            [by_account[account] for account in orphans],
        )
    await conn.execute(_SQL["add_used_to_pools"], pools, [by_pool[org_id] for org_id in pools])


async def _lock(conn: Connection, query: str, accounts: Iterable[Account]) -> dict[Account, object]:
    """Allocation id by account, for the accounts that have such a row; the rows are locked."""
    wanted = sorted(accounts)
    rows = await conn.fetch(
        _SQL[query], [org_id for org_id, _ in wanted], [user_id for _, user_id in wanted]
    )
    return {(row["org_id"], row["user_id"]): row["id"] for row in rows}
