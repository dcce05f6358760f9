"""Target 10: how many shards a fresh system should have, by the throughput of one process."""

from __future__ import annotations

from bench.harness import Figure, take_turns
from bench.live import LiveShards, make_accounts
from bench.requests import meter_side
from bench.servers import Servers

COUNTS = (1, 2, 4, 8)
CALLERS = (1, 100, 1_000)


async def run(servers: Servers) -> list[Figure]:
    """The same requests with 1, 2, 4 and 8 shards on one Redis, against those with one."""
    scale = servers.scale
    accounts = make_accounts(scale.users, scale.organisations)
    figures = []
    async with servers.redis() as (url, redis):
        for callers in CALLERS:
            worlds = {
                count: LiveShards(redis, f"{servers.prefix}{count}", accounts, count)
                for count in COUNTS
            }
            seen = await take_turns(
                {str(count): meter_side(url, live, callers) for count, live in worlds.items()},
                rounds=scale.rounds,
                seconds=scale.round_s,
                warm_up_s=scale.warm_up_s,
            )
            for live in worlds.values():
                await live.remove()
            figures += [
                Figure(
                    f"shards_{count}_callers_{callers}",
                    f"reserve + commit, {callers:,} callers, {count} shards",
                    "/s",
                    seen[str(count)],
                    seen["1"],
                    "one shard",
                    number=10,
                )
                for count in COUNTS[1:]
            ]
    return figures
