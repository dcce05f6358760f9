"""Offers 5,000 requests a second of one organisation, which lives in one shard, beside the same
load spread over organisations and all shards of a server.
"""

from __future__ import annotations

import itertools
import time
from contextlib import AsyncExitStack
from typing import Final

from bench.books import funded_books
from bench.harness import Figure, Spread, open_loop, percentile, take_turns
from bench.live import LiveShards, make_accounts, request_ids
from bench.machine import own_processor_s
from bench.peers import AMOUNT, HELD, usage
from bench.servers import Servers
from bench.settle_shards import Rounds
from taximeter.meter import Meter

PER_SECOND: Final = 5_000
SHARDS: Final = 8
OF_ONE: Final = "one"
SPREAD: Final = "spread"
_PEER: Final = "the same, spread over organisations"


class Load:
    """Reserves and commits by a schedule."""

    def __init__(self, url: str, live: LiveShards) -> None:
        self._url, self._live, self._round = url, live, 0
        self.p50: list[float] = []
        self.p99: list[float] = []

    async def offer(self, seconds: float) -> float:
        """Microseconds of our processor for each request, all of which were answered."""
        self._round += 1
        await self._live.reset()
        accounts, ids = itertools.cycle(self._live.accounts), request_ids(f"load{self._round}")
        numbers, clock, times = itertools.count(), time.perf_counter, list[float]()
        async with await Meter.connect(self._url, key_prefix=self._live.prefix) as meter:

            async def request(due: float) -> None:
                org_id, user_id = next(accounts)
                hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
                times.append(clock() - due)
                await hold.commit(AMOUNT, usage=usage(next(numbers)))

            before = own_processor_s()
            made = await open_loop(request, per_second=PER_SECOND, seconds=seconds)
            spent = own_processor_s() - before
        await self._live.prove(made, AMOUNT)
        self.p50.append(percentile(times, 0.5) * 1000)
        self.p99.append(percentile(times, 0.99) * 1000)
        return spent / made * 1e6


async def run(servers: Servers) -> list[Figure]:
    """In turn: requests on a server with eight shards, then settling what they leave in one."""
    scale = servers.scale
    async with servers.redis() as (url, redis):
        loads = {
            name: Load(url, LiveShards(redis, f"{servers.prefix}{name}", accounts, SHARDS))
            for name, accounts in (
                (OF_ONE, make_accounts(scale.users, 1)),
                (SPREAD, make_accounts(scale.users, scale.organisations)),
            )
        }
        spent = await take_turns(
            {name: load.offer for name, load in loads.items()},
            rounds=scale.rounds,
            seconds=scale.round_s,
            warm_up_s=scale.warm_up_s,
        )
    async with AsyncExitStack() as stack:
        settling = {
            name: Rounds(
                await stack.enter_async_context(
                    funded_books(servers, organisations=organisations, name=name)
                ),
                scale.settle_events,
            )
            for name, organisations in ((OF_ONE, 1), (SPREAD, scale.organisations))
        }
        settled = await take_turns(
            {name: one.settle for name, one in settling.items()},
            rounds=scale.rounds,
            seconds=scale.round_s,
            warm_up_s=scale.warm_up_s,
        )

    def times(part: str) -> tuple[Spread, Spread]:
        one, spread = (Spread(tuple(getattr(loads[name], part)[1:])) for name in (OF_ONE, SPREAD))
        return one, spread

    title = f"{PER_SECOND:,} requests/s of one organisation"
    rates = settled[OF_ONE], settled[SPREAD]
    return [
        Figure("one_cpu", f"{title}: our processor", "µs", spent[OF_ONE], spent[SPREAD], _PEER),
        Figure("one_p50", f"{title}: reserve, p50", "ms", *times("p50"), _PEER),
        Figure("one_p99", f"{title}: reserve, p99", "ms", *times("p99"), _PEER),
        Figure("one_settled", "settle of one organisation", "/s", *rates, _PEER),
    ]
