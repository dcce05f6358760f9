"""`PYTHONPATH=tests python -m growth.measure`: what a script call and each operation in it take of
the thread of Redis on this machine, as options of `make growth`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Final

from bench.live import LiveShards, make_accounts
from bench.scale import FULL
from bench.server_time import batches
from bench.servers import REDIS_URL, Servers

SIZES: Final = (1, 10, 100, 250)
ROUNDS: Final = 5
CONNECTIONS: Final = 16
"""Calls at a time, as a primary with many gateways has them: its caches stay warm."""
MORE: Final = 12
"""Times as many operations, at most, where a call has more of them."""


def thread_s(pid: int) -> float:
    """Processor seconds of the main thread of a process, without those that write its file."""
    on_processor = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]
    return int(on_processor) / 1e9


async def measure(folder: Path, rounds: int = ROUNDS, least: int = 4_000) -> dict[int, float]:
    """Microseconds of the thread an operation, by operations of a call: the lowest of the rounds,
    since neighbours on the machine only ever add to it. A round has `least` operations or more.
    """
    servers = Servers(folder, FULL)
    lowest = dict.fromkeys(SIZES, math.inf)
    try:
        async with servers.redis() as (_, redis):
            live = LiveShards(redis, servers.prefix, make_accounts(1_000, 100))
            pid = int((await redis.info("server"))["process_id"])
            for number in range(rounds):
                for size in SIZES:
                    seen = await _one_round(live, pid, size, least, f"{number}-{size}")
                    lowest[size] = min(lowest[size], seen)
            await live.remove()
    finally:
        servers.stop()
    return lowest


async def _one_round(live: LiveShards, pid: int, size: int, least: int, label: str) -> float:
    await live.reset()
    calls = [batches(live.accounts, size, f"{label}-{number}") for number in range(CONNECTIONS)]
    before, done = 0.0, 0
    # The first turn is for connections, and for holds that the next one ends.
    for turn in itertools.count():
        for replies in await asyncio.gather(*(live.operate(next(one)) for one in calls)):
            assert all(reply.startswith(b"1 ") for reply in replies), replies
            done += len(replies)
        if turn == 0:
            before, done = thread_s(pid), 0
        elif done >= least * min(size, MORE):
            return (thread_s(pid) - before) / done * 1e6
    raise AssertionError("it counts for ever")


def fit(seen: Mapping[int, float]) -> tuple[float, float]:
    """(µs of a call, µs of an operation) by least squares: a call of n takes call + n * operation,
    and each size counts alike.
    """
    points = [(1 / size, thread_us) for size, thread_us in seen.items()]
    middle, level = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - middle) * (y - level) for x, y in points)
    call = slope / sum((x - middle) ** 2 for x, _ in points)
    return call, level - call * middle


def main() -> None:
    """Measure, and print each size and the two options."""
    if REDIS_URL in os.environ:
        sys.exit(f"{REDIS_URL} is set: unset it, since a server of this machine is measured")
    with TemporaryDirectory(prefix="growth-") as folder:
        seen = asyncio.run(measure(Path(folder)))
    for size, thread_us in seen.items():
        print(f"{size:>4} a call: {thread_us:5.1f} µs of the thread an operation")
    call, operation = fit(seen)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"--call-us {call:.1f} --operation-us {operation:.2f}")


if __name__ == "__main__":
    main()
