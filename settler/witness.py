"""Lets a shard remember how far Postgres was, for the day on which Postgres is less far.

A Postgres that was put back to an older copy gives numbers of entries again that a live account has
applied already, so nothing of theirs may be applied before the shard knows how far Postgres is.
"""

from __future__ import annotations

from typing import Final

from taximeter.meter.scripts import load_script
from taximeter.settler.queries import load_queries
from taximeter.settler.stores import Stores
from taximeter.settler.verdict import Ledger

_SQL: Final = load_queries("guardian")
_WITNESS: Final = load_script("witness")


async def bear_witness(stores: Stores, shard: int, epoch: int, ledger: Ledger) -> None:
    """Write it into the shard's meta. Raises redis errors, ResponseError when the shard is not at
    `epoch` any more.
    """
    await _WITNESS.call(stores.redis, [stores.keys(shard).meta], [epoch, str(ledger)])


async def bear_witness_of_now(stores: Stores, shard: int, epoch: int) -> None:
    """The same with how far Postgres is now: all that anybody has read from it so far is covered.
    Raises asyncpg errors as well.
    """
    row = await stores.pool.fetchrow(_SQL["read_ledger"], shard)
    if row is not None:
        ledger = Ledger(row["history"], row["position"], row["seq"])
        await bear_witness(stores, shard, epoch, ledger)
