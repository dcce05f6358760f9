"""Takes open holds over a reopening of their shard: a gateway at work does not notice it.

A hold whose request the ledger has charged is open only in the history that this server has: in the
one that was settled it has ended. It ends here too, as it did there, so that a commit which comes
to it is told what is charged in all, and charges what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from redis.exceptions import ResponseError

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys, account_field, shard_of, split_account
from taximeter.settler.books.accounts import load_accounts
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import read_mark
from taximeter.settler.shards.away import away_arguments, read_away
from taximeter.settler.shards.verdict import ShardView

_SQL: Final = load_queries("guardian")
_SCAN_COUNT: Final = 1_000
_PER_QUERY: Final = 1_000
EXPIRIES_MAX: Final = 50_000
"""So many expired holds are remembered at most over a loss, the latest."""
_REMEMBERED: Final = timedelta(minutes=10)
"""As long as Redis does unless it is told otherwise (two windows of outcomes)."""


@dataclass(slots=True)
class Carried:
    """What a reopened shard begins with. start: the number of this start. accounts: those with open
    holds, and the holds that the ledger has ended, as `open` takes them. kept, dropped and ended:
    how many holds. remembered: how many expiries that Redis may have forgotten.
    """

    start: int
    kept: int = 0
    dropped: int = 0
    ended: int = 0
    remembered: int = 0
    accounts: list[str | int] = field(default_factory=list)


async def carry_holds(
    stores: Stores, shard: int, shards: int, seen: ShardView, whole: bool
) -> Carried:
    """Find out which open holds of a closed shard stay, and what is left of their accounts.

    Those of an organisation that is away stay as they are, and its accounts stay closed. Nothing
    changes but that holds go which Postgres has ended already. A shard that is not `whole`
    gets another number of start: what its holds have reported then counts again when they are
    touched; and the expiries of the last minutes are taken from the ledger, so that a commit which
    comes late is told what the request costs. Raises asyncpg and redis errors.
    """
    keys = stores.keys(shard)
    holds, unreadable = await read_holds(stores, keys)
    start = seen.start if whole else seen.start + 1
    newest = max((hold.start or 0 for hold in holds.values()), default=0)
    if newest > start:
        # No number is ever used for two starts.
        start = newest + 1
    away = await read_away(stores.pool, shard, shards)
    departures = (await read_mark(stores.pool, shard)).departures
    home = {
        key: hold
        for key, hold in holds.items()
        if shard_of(org := hold.account.split("/")[0], shards) == shard and org not in away
    }
    carried = Carried(start, dropped=unreadable)
    carried.accounts += away_arguments(away, departures)
    wanted = sorted({hold.account for hold in home.values()})
    known: dict[str, int] = {}
    for first in range(0, len(wanted), _PER_QUERY):
        page = [split_account(account) for account in wanted[first : first + _PER_QUERY]]
        for (org_id, user_id), figures in (await load_accounts(stores.pool, page)).items():
            account = f"{org_id}/{user_id}"
            known[account] = figures.applied
            carried.accounts += [account, figures.available, figures.applied]
    ended = await _ended_by_entries(stores, home, known)
    if ended:
        await stores.redis.hdel(keys.holds, *ended)
    charged = await _charged(stores, home)
    carried.ended = len(charged)
    expired = {} if whole else await _expired_lately(stores, shard, shards)
    carried.remembered = len(expired)
    for key, outcome in (expired | charged).items():
        carried.accounts += [key, outcome, "ended"]
    for key, hold in home.items():
        if key not in ended and key not in charged:
            carried.kept += hold.account in known
            carried.dropped += hold.account not in known
    return carried


async def read_holds(stores: Stores, keys: ShardKeys) -> tuple[dict[str, HoldRecord], int]:
    """Every open hold by its key, and how many could not be read. Exact for a closed shard."""
    holds: dict[str, HoldRecord] = {}
    unreadable: set[bytes] = set()
    cursor = 0
    while True:
        try:
            cursor, page = await stores.redis.hscan(keys.holds, cursor, count=_SCAN_COUNT)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return {}, 0
        for key, record in page.items():
            try:
                hold = HoldRecord.parse(record)
                split_account(hold.account)
                holds[key.decode()] = hold
            except ValueError:
                unreadable.add(key)
        if cursor == 0:
            return holds, len(unreadable)


async def _ended_by_entries(
    stores: Stores, holds: dict[str, HoldRecord], known: dict[str, int]
) -> Sequence[str]:
    """Holds of moves that are booked: the entry which ends them is in the balance that was loaded,
    so it will not be applied again.
    """
    moves = [
        (key, *split_account(hold.account), known[hold.account])
        for key, hold in holds.items()
        if key.count("/") > 1 and hold.account in known
    ]
    if not moves:
        return []
    keys, orgs, users, applied = map(list, zip(*moves, strict=True))
    rows = await stores.pool.fetch(_SQL["holds_ended"], keys, orgs, users, applied)
    return [row["hold"] for row in rows]


async def _charged(stores: Stores, holds: dict[str, HoldRecord]) -> dict[str, str]:
    """Outcomes, by their keys, of holds whose requests the ledger has charged. All that the stream
    has is settled.
    """
    requests = [key.split("/") for key in holds if key.count("/") == 1]
    outcomes: dict[str, str] = {}
    for first in range(0, len(requests), _PER_QUERY):
        page = list(map(list, zip(*requests[first : first + _PER_QUERY], strict=True)))
        for row in await stores.pool.fetch(_SQL["charged_in_all"], *page):
            org_id, key = row["org_id"], f"{row['org_id']}/{row['request_id']}"
            state = "expired" if row["by_expiry"] else "committed"
            account = account_field(org_id, row["user_id"])
            outcomes[key] = f"{state} {holds[key].amount} {row['amount']} {account}"
    return outcomes


async def _expired_lately(stores: Stores, shard: int, shards: int) -> dict[str, str]:
    """Outcomes, by their keys, of requests of this shard whose holds have expired in the last
    minutes and were charged, as the ledger has them. All that the stream has is settled.
    """
    seconds, _ = await (await stores.server(shard)).time()
    since = datetime.fromtimestamp(seconds, UTC) - _REMEMBERED
    outcomes: dict[str, str] = {}
    async with stores.pool.acquire() as conn, conn.transaction():
        # Each is found by the index of its month, also before Postgres knows how large that is.
        await conn.execute("SET LOCAL enable_seqscan = off")
        rows = await conn.fetch(_SQL["recent_expiries"], since, EXPIRIES_MAX)
    for row in rows:
        org_id = row["org_id"]
        if shard_of(org_id, shards) == shard:
            state = "expired" if row["by_expiry"] else "committed"
            account = account_field(org_id, row["user_id"])
            outcome = f"{state} {row['reserved']} {row['amount']} {account}"
            outcomes[f"{org_id}/{row['request_id']}"] = outcome
    return outcomes
