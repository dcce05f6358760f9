"""Target 5: a reserve when calls come by a schedule, beside a bare PING of each moment."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bench.fill import fill, reserves
from bench.harness import Figure, Spread, Target, open_loop, percentile
from bench.histogram import Histogram
from bench.live import LiveShards, make_accounts, request_ids
from bench.peers import AMOUNT, HELD, usage
from bench.requests import meter_side
from bench.servers import Servers
from taximeter.meter import Meter

CALLERS_AT_MOST: Final = 1_000
PINGS_PER_SECOND: Final = 1_000
FEW_PER_SECOND: Final = 1_000
GROWN_ORGANISATIONS: Final = 1_000
PARTS: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
TARGETS: Final = {
    ("few", "p99"): Target(1.5, "at most", "value", "redis"),
    ("half", "p50"): Target(3.0, "at most"),
    ("half", "p99"): Target(5.0, "at most", "value", "redis"),
    ("half", "p99.9"): Target(20.0, "at most", "value", "redis"),
}
"""By load: milliseconds, and the median as a multiple of PING's own. A ratio of the slow ones would
call it fine when both stand still.
"""


@dataclass(slots=True)
class Times:
    """Seconds of everything in one round."""

    reserves: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)


async def run(servers: Servers) -> list[Figure]:
    """First the maximum, then rounds at 1,000/s and at half of it; the same again on a shard with a
    lot of everything. Every reserve is committed, which is load too.

    A PING goes out every millisecond, when the reserves of that millisecond do, from the same loop,
    so both pay alike for a busy process. It has a connection for itself.
    """
    scale = servers.scale
    figures: list[Figure] = []
    async with servers.redis() as (url, redis):
        few = LiveShards(redis, servers.prefix, make_accounts(scale.users, scale.organisations))
        side = meter_side(url, few, CALLERS_AT_MOST)
        await side(scale.warm_up_s)
        half = await side(scale.latency_s) / 2
        loads = {"few": float(FEW_PER_SECOND), "half": half}
        figures += await _rounds(url, few, loads, scale.latency_s, scale.rounds)
        await few.remove()
        many = LiveShards(
            redis,
            f"{servers.prefix}grown",
            make_accounts(scale.grown_accounts, GROWN_ORGANISATIONS),
        )
        await many.reset()
        await fill(many, reserves(many.accounts, scale.grown_holds, "open", ""))
        figures += await _rounds(
            url,
            many,
            loads,
            scale.latency_s,
            scale.rounds,
            f", {scale.grown_accounts:,} accounts and {scale.grown_holds:,} open holds",
            scale.grown_holds,
        )
        await many.remove()
    return figures


async def _rounds(
    url: str,
    live: LiveShards,
    loads: dict[str, float],
    seconds: float,
    rounds: int,
    of: str = "",
    holds: int | None = None,
) -> list[Figure]:
    """Rounds of each load in turn. With `holds` the shard stays as it is, with so many open ones;
    else each round begins with an empty one.
    """
    seen: dict[str, list[Times]] = {load: [] for load in loads}
    rewrites: Counter[str] = Counter()
    requests = 0
    for number in range(rounds + 1):
        for load, rate in loads.items():
            if holds is None:
                await live.reset()
                requests = 0
            before = await rewrites_begun(live.redis)
            with as_after_a_start():
                # The first of each is to warm up.
                times, made = await _round(
                    url, live, rate, seconds if number else seconds / 4, f"{load}-{number}"
                )
            requests += made
            if holds is None:
                await live.prove(requests, AMOUNT)
            if number:
                seen[load].append(times)
                rewrites[load] += await rewrites_begun(live.redis) - before
    if holds is not None:
        await live.prove(requests, AMOUNT, holds)
    name = "latency" if holds is None else "latency_grown"
    return [
        figure
        for load, rate in loads.items()
        for figure in _figures(f"{name}_{load}", load, rate, seen[load], of, rewrites[load])
    ]


async def rewrites_begun(redis: Any) -> int:
    """How often Redis has begun to write its append-only file anew since its start, which takes a
    core and makes it copy what it changes meanwhile.
    """
    info = await redis.info("persistence")
    return int(info["aof_rewrites"]) + int(info["aof_rewrite_in_progress"])


def _figures(
    name: str, load: str, rate: float, rounds: Sequence[Times], of: str, rewrites: int
) -> Iterator[Figure]:
    what = f"{rate:,.0f}/s" if load == "few" else f"half of the maximum, {rate:,.0f}/s"
    meanwhile = f"; Redis began to rewrite its file {rewrites} times" if rewrites else ""
    for part, share in PARTS.items():
        times: tuple[Histogram, ...] = ()
        if share == max(PARTS.values()):
            times = (
                Histogram.of(f"reserve at {what}{of}", every(one.reserves for one in rounds)),
                Histogram.of("a PING beside it", every(one.pings for one in rounds)),
            )
        yield Figure(
            f"{name}_{part.replace('.', '')}",
            f"reserve at {what}{of}: {part}",
            "ms",
            Spread(tuple(percentile(one.reserves, share) * 1000 for one in rounds)),
            Spread(tuple(percentile(one.pings, share) * 1000 for one in rounds)),
            "a PING beside it",
            TARGETS.get((load, part)),
            note="open loop, counted from when a call was due" + meanwhile,
            number=5,
            times=times,
        )


def every(rounds: Iterable[list[float]]) -> list[float]:
    """The times of all rounds."""
    return list(itertools.chain.from_iterable(rounds))


@contextmanager
def as_after_a_start() -> Iterator[None]:
    """What was made so far is looked at by no collection: a program freezes what it has when it is
    up, and what a bench keeps is no part of what it measures.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _round(
    url: str, live: LiveShards, rate: float, seconds: float, label: str
) -> tuple[Times, int]:
    """Times of a round, and how many requests there were."""
    times = Times()
    accounts, ids = itertools.cycle(live.accounts), request_ids(label)
    numbers = itertools.count()
    clock = time.perf_counter
    idle: list[Any] = []
    async with await Meter.connect(url, key_prefix=live.prefix) as meter:

        async def request(due: float) -> None:
            org_id, user_id = next(accounts)
            hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
            times.reserves.append(clock() - due)
            await hold.commit(AMOUNT, usage=usage(next(numbers)))

        async def ping(due: float) -> None:
            # One at a time on a connection; a second one is opened if the first is not back yet.
            connection = idle.pop() if idle else live.redis.connection_pool.make_connection()
            await connection.send_command("PING")
            await connection.read_response()
            times.pings.append(clock() - due)
            idle.append(connection)

        try:
            await asyncio.gather(*(ping(0.0) for _ in range(8)))
            times.pings.clear()
            requests, _ = await asyncio.gather(
                open_loop(request, per_second=rate, seconds=seconds),
                open_loop(ping, per_second=PINGS_PER_SECOND, seconds=seconds),
            )
        finally:
            for connection in idle:
                await connection.disconnect(nowait=True)
    return times, requests
