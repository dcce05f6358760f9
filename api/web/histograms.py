"""Writes the buckets of a histogram as Prometheus has them, with an exemplar where one was kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.samples import Exemplar

from taximeter.meter.wire.exemplars import Exemplars

Bucket = tuple[str, float] | tuple[str, float, Exemplar]


def buckets_of(
    bounds: Sequence[str], counts: Sequence[int], exemplars: Exemplars | None = None
) -> list[Bucket]:
    """`counts` are of each bucket alone; in the answer each has those below it, too.

    An exemplar stands in the bucket of its own time, also where nothing was counted: a caller's
    time has the way to the call and back, so that it may lie one bucket above what was counted.
    """
    sums = map(float, accumulate(counts))
    if exemplars is None:
        return list(zip(bounds, sums, strict=True))
    made: list[Bucket] = []
    for place, (bound, total) in enumerate(zip(bounds, sums, strict=True)):
        found = exemplars.of(place)
        if found is None:
            made.append((bound, total))
        else:
            labels = {"trace_id": f"{found.trace_id:032x}"}
            made.append((bound, total, Exemplar(labels, found.seconds, found.at)))
    return made
