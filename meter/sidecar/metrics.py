"""Reports how long operations wait and who is refused, in the text format that Prometheus reads."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from taximeter.meter.lanes.pressure import WAIT_BUCKETS_S, Pressure

_WAITING: Final = "taximeter_waiting_operations"
_WAITS: Final = "taximeter_wait_seconds"
_REFUSED: Final = "taximeter_busy_refusals_total"
_OVERDRAFTS: Final = "taximeter_overdrafts_total"
_UNCONFIRMED: Final = "taximeter_unconfirmed_answers_total"
_MISSING: Final = "taximeter_missing_calls_total"
_BOUNDS: Final = (*(f"{bound:g}" for bound in WAIT_BUCKETS_S), "+Inf")


def metrics_text(shards: list[tuple[int, int, Pressure]], overdrafts: int) -> bytes:
    """The figures of every shard, and how many operations were reported as overdrafts. Labels name
    shards and limits, and nobody.
    """
    waiting = [f"# HELP {_WAITING} Operations in this process that wait for the shard."]
    waits = [f"# HELP {_WAITS} How long operations waited, each as long as the first of its call."]
    refused = [f"# HELP {_REFUSED} Refused because too many wait, by whose they are."]
    waiting.append(f"# TYPE {_WAITING} gauge")
    waits.append(f"# TYPE {_WAITS} histogram")
    refused.append(f"# TYPE {_REFUSED} counter")
    unconfirmed = [f"# HELP {_UNCONFIRMED} Done, and not confirmed by disks or replicas in time."]
    missing = [f"# HELP {_MISSING} Calls that a server had acknowledged here and has lost."]
    unconfirmed.append(f"# TYPE {_UNCONFIRMED} counter")
    missing.append(f"# TYPE {_MISSING} counter")
    for shard, count, pressure in shards:
        of = f'shard="{shard}"'
        waiting.append(f"{_WAITING}{{{of}}} {count}")
        for bound, total in zip(_BOUNDS, accumulate(pressure.waits), strict=True):
            waits.append(f'{_WAITS}_bucket{{{of},le="{bound}"}} {total}')
        waits.append(f"{_WAITS}_sum{{{of}}} {pressure.waits_sum_s:.6f}")
        waits.append(f"{_WAITS}_count{{{of}}} {sum(pressure.waits)}")
        for limit, number in pressure.refused.items():
            refused.append(f'{_REFUSED}{{{of},limit="{limit}"}} {number}')
        unconfirmed.append(f"{_UNCONFIRMED}{{{of}}} {pressure.unconfirmed}")
        missing.append(f"{_MISSING}{{{of}}} {pressure.missing}")
    overdrawn = [
        f"# HELP {_OVERDRAFTS} Operations that left an account below the reported overdraft.",
        f"# TYPE {_OVERDRAFTS} counter",
        f"{_OVERDRAFTS} {overdrafts}",
    ]
    lines = [*waiting, *waits, *refused, *unconfirmed, *missing, *overdrawn, ""]
    return "\n".join(lines).encode()
