"""Target 5: a reserve at half of the possible load, beside a bare PING of each moment."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

from bench.harness import Figure, Spread, Target, open_loop, percentile
from bench.live import LiveShards, make_accounts, request_ids
from bench.peers import AMOUNT, HELD, usage
from bench.requests import meter_side
from bench.servers import Servers
from taximeter.meter import Meter

CALLERS_AT_MOST = 1_000
PINGS_PER_SECOND = 1_000
TARGETS = {0.5: 3.0, 0.99: 5.0}


@dataclass(slots=True)
class Times:
    """Seconds of everything in one round."""

    reserves: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)


async def run(servers: Servers) -> list[Figure]:
    """First the maximum, then rounds at half of it. Every reserve is committed, which is load too.

    A PING goes out every millisecond, when the reserves of that millisecond do, from the same loop,
    so both pay alike for a busy process. It has a connection for itself.
    """
    scale = servers.scale
    async with servers.redis() as (url, redis):
        live = LiveShards(redis, servers.prefix, make_accounts(scale.users, scale.organisations))
        side = meter_side(url, live, CALLERS_AT_MOST)
        await side(scale.warm_up_s)
        rate = await side(scale.latency_s) / 2
        await _round(url, live, rate, scale.warm_up_s)
        rounds = []
        for _ in range(scale.rounds):
            gc.collect()
            rounds.append(await _round(url, live, rate, scale.latency_s))
        await live.remove()
    return [
        Figure(
            f"latency_p{part * 100:.0f}",
            f"reserve at half of the maximum, p{part * 100:.0f}",
            "ms",
            Spread(tuple(percentile(one.reserves, part) * 1000 for one in rounds)),
            Spread(tuple(percentile(one.pings, part) * 1000 for one in rounds)),
            "a PING beside it",
            Target(bound, "at most"),
            note=f"open loop, {rate:,.0f} requests/s",
            number=5,
        )
        for part, bound in TARGETS.items()
    ]


async def _round(url: str, live: LiveShards, rate: float, seconds: float) -> Times:
    await live.reset()
    times = Times()
    accounts, ids = itertools.cycle(live.accounts), request_ids("open")
    numbers = itertools.count()
    clock = time.perf_counter
    idle: list[Any] = []
    async with await Meter.connect(url, key_prefix=live.prefix) as meter:

        async def request(counted_from: float) -> None:
            org_id, user_id = next(accounts)
            hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
            times.reserves.append(clock() - counted_from)
            await hold.commit(AMOUNT, usage=usage(next(numbers)))

        async def ping(counted_from: float) -> None:
            # One at a time on a connection; a second one is opened if the first is not back yet.
            connection = idle.pop() if idle else live.redis.connection_pool.make_connection()
            await connection.send_command("PING")
            await connection.read_response()
            times.pings.append(clock() - counted_from)
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
    await live.prove(requests, AMOUNT)
    return times
