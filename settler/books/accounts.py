"""Loads accounts from Postgres, for clients and for the relay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taximeter.meter.wire.balance import LoadedAccount, Loader
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool

_SQL: Final = load_queries("accounts")
_DIGITS_MAX: Final = 15

Account = tuple[str, str]
"""(org_id, user_id)."""


async def load_accounts(pool: Pool, accounts: Sequence[Account]) -> dict[Account, LoadedAccount]:
    """Balance and last entry of each (org_id, user_id), all in one snapshot with the epoch of its
    shard; unknown accounts are missing.
    """
    rows = await pool.fetch(
        _SQL["load_accounts"],
        [org_id for org_id, _ in accounts],
        [user_id for _, user_id in accounts],
    )
    return {
        (row["org_id"], row["user_id"]): LoadedAccount(
            row["available"], row["applied"], _epoch(row["org_id"], row["epochs"])
        )
        for row in rows
    }


def _epoch(org_id: str, epochs: Sequence[int] | None) -> int | None:
    return epochs[shard_of(org_id, len(epochs))] if epochs else None


def last_applied(record: bytes | None) -> int | None:
    """The number of the last entry in a live account, as Redis has it; None for none, and for a
    damaged one.
    """
    number = (record or b"").rpartition(b" ")[2]
    return int(number) if number.isdigit() and len(number) <= _DIGITS_MAX else None


def account_loader(pool: Pool) -> Loader:
    """The loader that a Meter takes: one account by (org_id, user_id), or None when Postgres knows
    none.

    Valid only while no unsettled event of the account exists, which holds for every account that
    Redis does not have: accounts leave Redis only with their whole shard, and the guardian settles
    a shard before it opens it again.
    """

    async def load(org_id: str, user_id: str) -> LoadedAccount | None:
        return (await load_accounts(pool, [(org_id, user_id)])).get((org_id, user_id))

    return load
