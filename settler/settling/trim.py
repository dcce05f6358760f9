"""Forgets settled events: bounds the memory of a shard's stream, never past its watermark."""

from __future__ import annotations

from typing import Final

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores

_SQL: Final = load_queries("upkeep")
_ENTRIES_PER_CALL: Final = 10_000
_CALLS_MAX: Final = 10


async def trim(stores: Stores, shard: int, *, retention_s: float, retention_max: int) -> int:
    """Remove entries that were settled more than `retention_s` ago or that exceed `retention_max`
    events.

    Returns how many entries went. Whole nodes of the stream go, so up to a hundred entries more
    stay. The boundary was committed with the watermark: what is removed is in Postgres, whatever
    happens here.
    """
    boundary = await stores.pool.fetchrow(_SQL["trim_boundary"], shard, retention_s, retention_max)
    if boundary is None:
        return 0
    minimum = f"{boundary['epoch']}-{boundary['seq'] + 1}"
    removed = 0
    for _ in range(_CALLS_MAX):
        gone = int(
            await stores.redis.xtrim(
                stores.keys(shard).events, minid=minimum, approximate=True, limit=_ENTRIES_PER_CALL
            )
        )
        removed += gone
        if gone == 0:
            break
    return removed
