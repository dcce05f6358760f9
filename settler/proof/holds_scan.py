"""Compares holds with accounts by two readings, for shards with too many holds to read at one
cut.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from taximeter.settler.books.shard_reads import parse_hold, scan_hash
from taximeter.settler.books.stores import Stores

_PAUSE_S: Final = 0.2
_AWAY: Final = "away:"


@dataclass(frozen=True, slots=True)
class HoldComparison:
    """differences: held less the sum of open holds, by account, equal in both readings.

    judged: accounts that stood still in both; unjudged: accounts that moved while they were read.
    """

    differences: dict[str, int]
    judged: int
    unjudged: int


async def compare_holds(stores: Stores, shard: int) -> HoldComparison:
    """Read accounts, holds and accounts again, twice. Only accounts that did not change in either
    are judged.

    What moved all the time cannot be judged without stopping traffic, and is counted instead. An
    account that is rightly busy and looks the same before and after would have to differ by the
    same amount twice to be accused.
    """
    first, moved_first = await _read(stores, shard)
    await asyncio.sleep(_PAUSE_S)
    second, moved_second = await _read(stores, shard)
    differences = {
        account: figure
        for account, figure in first.items()
        if figure != 0 and second.get(account) == figure
    }
    moved = moved_first | moved_second
    return HoldComparison(differences, len((first.keys() | second.keys()) - moved), len(moved))


async def _read(stores: Stores, shard: int) -> tuple[dict[str, int], set[str]]:
    """(difference of every account that stood still, the accounts that did not). What is no record
    of an account is for whoever looks for strangers.
    """
    keys = stores.keys(shard)
    before = await scan_hash(stores.redis, keys.accounts)
    sums: defaultdict[str, int] = defaultdict(int)
    for record in (await scan_hash(stores.redis, keys.holds)).values():
        account, amount = parse_hold(record)
        sums[account] += amount
    after = await scan_hash(stores.redis, keys.accounts)
    held: dict[str, int] = {}
    moved: set[str] = set()
    for field in before.keys() | after.keys():
        name = field.decode("utf-8", "backslashreplace")
        if before.get(field) != after.get(field):
            moved.add(name)
        elif len(figures := before[field].split(b" ")) == 3 and figures[1].isdigit():
            held[name] = int(figures[1])
    away = {
        field.decode("utf-8", "replace").removeprefix(_AWAY)
        for field in await scan_hash(stores.redis, keys.meta)
        if field.startswith(_AWAY.encode())
    }
    orphans = {
        name
        for name, amount in sums.items()
        if amount
        and name.partition("/")[0] not in away  # Its holds travel, its accounts are closed.
    }
    orphans -= held.keys() | moved
    return {name: held.get(name, 0) - sums[name] for name in held.keys() | orphans}, moved
