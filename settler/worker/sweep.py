"""Ends holds whose deadline has passed, and forgets outcomes that are older than their window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.stores import Stores

_SWEEP: Final = load_script("sweep")
_ROTATE: Final = load_script("rotate")


@dataclass(frozen=True, slots=True)
class Swept:
    """Holds that ended, events they left (progress that is charged), and holds that are still
    due.

    uncharged_holds: those whose progress was reported before the last start of the server and is
    therefore not charged; uncharged: that progress in millicredits.
    """

    ended: int = 0
    events: int = 0
    still_due: int = 0
    uncharged_holds: int = 0
    uncharged: int = 0


async def sweep(
    stores: Stores, shard: int, epoch: int, *, limit: int = 500, calls_max: int = 20
) -> Swept:
    """End what is due, at most `limit` holds a call and `calls_max` calls, so that Redis is never
    held up for long.

    Each hold ends exactly once, however many sweeps run. Raises ResponseError when the shard is
    closed or at another epoch.
    """
    keys = stores.keys(shard)
    swept = Swept()
    for _ in range(calls_max):
        counts = await _SWEEP.call(
            stores.redis,
            keys.sweeping(),
            [epoch, limit],
        )
        swept = Swept(
            swept.ended + int(counts[0]),
            swept.events + int(counts[1]),
            int(counts[2]),
            swept.uncharged_holds + int(counts[3]),
            swept.uncharged + int(counts[4]),
        )
        if swept.still_due == 0:
            break
    return swept


async def rotate(stores: Stores, shard: int, epoch: int, *, window_s: float) -> bool:
    """Drop the older generation of outcomes when the window is over; True when it did."""
    keys = stores.keys(shard)
    rotated = await _ROTATE.call(
        stores.redis, [keys.outcomes, keys.outcomes_old, keys.meta], [epoch, int(window_s * 1000)]
    )
    return int(rotated) == 1
