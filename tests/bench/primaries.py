"""Measures one process with a cluster of one, two and three primaries, with the same shards: how
much of it is the work of more servers, and not of more shards.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from redis.asyncio import Redis

from bench.harness import Figure, take_turns
from bench.live import LiveShards, make_accounts
from bench.processor import Costs, requests_side
from bench.servers import Servers
from taximeter.api.embedded.cluster import EmbeddedCluster
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds

PRIMARIES = (1, 2, 3)
SHARDS = 32
CALLERS = (100, 1_000)


async def run(servers: Servers) -> list[Figure]:
    """Clusters of our own, whatever the environment names: each has a replica for each primary."""
    scale = servers.scale
    accounts = make_accounts(scale.users, max(scale.organisations, 4 * SHARDS))
    figures = []
    async with AsyncExitStack() as stack:
        worlds: dict[int, tuple[str, LiveShards, list[Redis]]] = {}
        for count in PRIMARIES:
            cluster = EmbeddedCluster(
                servers.data_dir / f"primaries-{count}",
                primaries=count,
                binary=servers.redis_binary,
            )
            await asyncio.to_thread(cluster.start)
            stack.callback(cluster.stop)
            url = cluster.url(*cluster.primaries)
            redis = await stack.enter_async_context(RoutedRedis(read_seeds(url)))
            nodes = [
                await stack.enter_async_context(Redis(host="127.0.0.1", port=node.port))
                for node in cluster.primaries
            ]
            worlds[count] = url, LiveShards(redis, servers.prefix, accounts, SHARDS), nodes
        for callers in CALLERS:
            costs = {count: Costs() for count in PRIMARIES}
            seen = await take_turns(
                {
                    str(count): requests_side(url, live, nodes, callers, costs[count])
                    for count, (url, live, nodes) in worlds.items()
                },
                rounds=scale.rounds,
                seconds=scale.round_s,
                warm_up_s=scale.warm_up_s,
            )
            for count in PRIMARIES:
                name = f"primaries_{count}_callers_{callers}"
                title = f"{callers:,} callers, primaries: {count}"
                one = (seen["1"], costs[1], "one primary") if count > 1 else (None, None, "")
                rates, beside, of = one
                figures.append(
                    Figure(name, f"reserve + commit, {title}", "/s", seen[str(count)], rates, of)
                )
                figures += costs[count].figures(name, title, scale.rounds, beside, of)
    return figures
