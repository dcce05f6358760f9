"""Measures what an operation costs in processor time: in the client's process, and in the servers.
A rate says little where clients and servers share a few cores.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.harness import Figure, Side, Spread, closed_loop
from bench.live import LiveShards, request_ids
from bench.peers import AMOUNT, HELD, usage
from taximeter.meter import Meter

OPERATIONS_PER_REQUEST = 2


@dataclass
class Costs:
    """Microseconds of an operation, in the order of the rounds."""

    client: list[float] = field(default_factory=list)
    servers: list[float] = field(default_factory=list)

    def figures(
        self,
        name: str,
        title: str,
        rounds: int,
        beside: Costs | None,
        of: str,
        number: int | None = None,
    ) -> list[Figure]:
        """Of the last rounds, since those before them were to warm up; beside other ones."""
        return [
            Figure(
                f"{name}_{side}",
                f"{title}: processor of {side}, an operation",
                "µs",
                Spread(tuple(mine[-rounds:])),
                None if beside is None else Spread(tuple(getattr(beside, side)[-rounds:])),
                of,
                number=number,
            )
            for side, mine in (("client", self.client), ("servers", self.servers))
        ]


def requests_side(
    url: str, live: LiveShards, servers: Sequence[Any], callers: int, costs: Costs
) -> Side:
    """Requests a second, a reserve and its commit each, through one Meter; what they cost is added
    to `costs`. `servers` are clients of those whose time counts.
    """

    async def side(seconds: float) -> float:
        await live.reset()
        accounts, ids = itertools.cycle(live.accounts), request_ids("ours")
        numbers = itertools.count()
        async with await Meter.connect(url, key_prefix=live.prefix) as meter:

            async def once() -> None:
                org_id, user_id = next(accounts)
                hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
                await hold.commit(AMOUNT, usage=usage(next(numbers)))

            await closed_loop(once, callers=callers, seconds=seconds / 10)
            spent_before, before = await _spent(servers), time.process_time()
            done = await closed_loop(once, callers=callers, seconds=seconds)
            mine, theirs = time.process_time() - before, await _spent(servers) - spent_before
        operations = OPERATIONS_PER_REQUEST * done.total
        costs.client.append(1e6 * mine / operations)
        costs.servers.append(1e6 * theirs / operations)
        return done.per_second

    return side


async def _spent(servers: Sequence[Any]) -> float:
    """Seconds of the threads that run commands."""
    total = 0.0
    for server in servers:
        found = await server.info("cpu")
        total += found["used_cpu_user_main_thread"] + found["used_cpu_sys_main_thread"]
    return total
