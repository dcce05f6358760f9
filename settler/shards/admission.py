"""Bounds how much credit a shard takes ahead of Postgres and how many holds an account may have
open, and stops it from taking any.

The backlog of events lives in Redis memory. While Postgres is away it grows with every charge, so
the settler says each time it has settled how far it may grow: a shard that reaches that number
takes no credit until the settler says otherwise. Commits go on, since their upstream calls were
made; at most one event per open hold comes on top.
"""

from __future__ import annotations

from typing import Final

from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.stores import Stores

_ADMIT: Final = load_script("admit")
_DRAIN: Final = load_script("drain")
_RECOUNT: Final = load_script("recount")


async def admit(
    stores: Stores,
    shard: int,
    epoch: int,
    settled_seq: int,
    backlog_max: int,
    open_holds_max: int,
) -> None:
    """Let the shard take credit until `backlog_max` events wait after `settled_seq`, and each
    account have `open_holds_max` holds open.

    Nothing is durable that matters: the next tick says it again. A drain under way goes on. Raises
    redis errors, ResponseError when the shard is not at `epoch` any more.
    """
    keys = stores.keys(shard)
    await _ADMIT.call(stores.redis, [keys.meta], [epoch, settled_seq + backlog_max, open_holds_max])


async def recount(stores: Stores, shard: int, epoch: int, holds_limit: int) -> int:
    """Make the count of each account's open holds what its holds say; returns how many were wrong,
    -1 when there are more than `holds_limit` holds and nothing was counted. Raises as `admit`.
    """
    keys = stores.keys(shard)
    names = [keys.holds, keys.meta, keys.open_holds]
    return int(await _RECOUNT.call(stores.redis, names, [epoch, holds_limit]))


async def drain(stores: Stores, shard: int, epoch: int, lasting_s: float) -> None:
    """Take no credit for `lasting_s` seconds at most, or until `end_drain`, or until the shard is
    opened anew. Raises as `admit`.
    """
    keys = stores.keys(shard)
    await _DRAIN.call(stores.redis, [keys.meta], [epoch, max(1, int(lasting_s * 1000))])


async def end_drain(stores: Stores, shard: int, epoch: int) -> None:
    """Take credit again at once. Raises as `admit`."""
    await _DRAIN.call(stores.redis, [stores.keys(shard).meta], [epoch, 0])
