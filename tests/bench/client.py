"""A client process of its own: reserves and commits from one moment to another, then says how many.

`python -m bench.client URL PREFIX CALLERS NUMBER START END`, both moments on the clock that all
processes of a machine share. Exits with LATE when it begins after the first one.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import uvloop

from bench.harness import closed_loop
from bench.live import make_accounts, request_ids
from bench.peers import AMOUNT, HELD, usage
from taximeter.meter import Meter

USERS, ORGANISATIONS = 1_000, 50
WARM_UP_S = 0.2
LATE = 75
"""Exit code of a process that was not up when all of them were to begin."""


async def work(
    url: str, prefix: str, callers: int, number: int, start: float, end: float
) -> tuple[int, int]:
    """Requests in all, and those between the two moments."""
    accounts = itertools.cycle(make_accounts(USERS, ORGANISATIONS))
    for _ in range(number * USERS // 4):
        next(accounts)
    ids, numbers = request_ids(f"process-{number}"), itertools.count()
    async with await Meter.connect(url, key_prefix=prefix) as meter:

        async def once() -> None:
            org_id, user_id = next(accounts)
            hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
            await hold.commit(AMOUNT, usage=usage(next(numbers)))

        warm = await closed_loop(once, callers=callers, seconds=WARM_UP_S)
        if time.monotonic() > start:
            raise SystemExit(LATE)
        await asyncio.sleep(start - time.monotonic())
        done = await closed_loop(once, callers=callers, seconds=max(0.0, end - time.monotonic()))
    return warm.total + done.total, done.counted


if __name__ == "__main__":
    url, prefix, callers, number, start, end = sys.argv[1:]
    print(
        *uvloop.run(work(url, prefix, int(callers), int(number), float(start), float(end))),
        flush=True,
    )
