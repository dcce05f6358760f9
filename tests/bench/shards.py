"""Target 10: how many shards a fresh system should have, by the throughput of one process and by
what an operation costs.
"""

from __future__ import annotations

from bench.harness import Figure, take_turns
from bench.live import LiveShards, make_accounts
from bench.processor import Costs, requests_side
from bench.servers import Servers

COUNTS = (1, 2, 4, 8, 64)
CALLERS = (1, 100, 1_000)


async def run(servers: Servers) -> list[Figure]:
    """The same requests with 1 to 64 shards on one Redis, against those with one."""
    scale = servers.scale
    accounts = make_accounts(scale.users, max(scale.organisations, 4 * max(COUNTS)))
    figures = []
    async with servers.redis() as (url, redis):
        for callers in CALLERS:
            worlds = {
                count: LiveShards(redis, f"{servers.prefix}{count}", accounts, count)
                for count in COUNTS
            }
            costs = {count: Costs() for count in COUNTS}
            seen = await take_turns(
                {
                    str(count): requests_side(url, live, [redis], callers, costs[count])
                    for count, live in worlds.items()
                },
                rounds=scale.rounds,
                seconds=scale.round_s,
                warm_up_s=scale.warm_up_s,
            )
            for live in worlds.values():
                await live.remove()
            for count in COUNTS:
                name = f"shards_{count}_callers_{callers}"
                title = f"{callers:,} callers, {count} shards"
                one = (seen["1"], costs[1], "one shard") if count > 1 else (None, None, "")
                rates, beside, of = one
                figures.append(
                    Figure(
                        name,
                        f"reserve + commit, {title}",
                        "/s",
                        seen[str(count)],
                        rates,
                        of,
                        number=10,
                    )
                )
                figures += costs[count].figures(name, title, scale.rounds, beside, of, 10)
    return figures
