"""Measures one shard with ten million accounts: how long they take to load, what they take of
memory, and what an operation costs among them.
"""

from __future__ import annotations

import itertools
import time
from typing import Final

from bench.growth import COST_GROWS, cost, used_memory
from bench.harness import Figure, Target, take_turns, value
from bench.live import LiveShards, each_account, make_accounts
from bench.servers import Servers

ORGANISATIONS: Final = 10_000
ASKED: Final = 100_000
"""Accounts that operations go to, spread over all of them: enough that no cache has them."""


async def run(servers: Servers) -> list[Figure]:
    """The accounts are never all in this process: it makes a page, sends it and forgets it."""
    scale = servers.scale
    count = scale.many_accounts
    asked = list(
        itertools.islice(each_account(count, ORGANISATIONS), 0, None, max(1, count // ASKED))
    )
    async with servers.redis() as (_, redis):
        few = make_accounts(scale.users, scale.organisations)
        small = LiveShards(redis, f"{servers.prefix}small", few)
        many = LiveShards(redis, f"{servers.prefix}many", ())
        await many.reset()
        before, began = await used_memory(redis), time.perf_counter()
        await many.load(each_account(count, ORGANISATIONS))
        took = time.perf_counter() - began
        size = (await used_memory(redis) - before) / count
        await small.reset()
        seen = await take_turns(
            {"small": cost(small, few), "many": cost(many, asked)},
            rounds=scale.rounds,
            seconds=scale.round_s / 2,
            warm_up_s=scale.warm_up_s,
        )
        await small.remove()
        await many.remove()
    title = f"{count:,} accounts"
    return [
        Figure("many_accounts_load", f"{title}: to load them", "s", value(took)),
        Figure("many_accounts_memory", f"{title}: memory of Redis of each", "B", value(size)),
        Figure(
            "many_accounts_cost",
            f"{title}: Redis time of an operation",
            "µs",
            seen["many"],
            seen["small"],
            f"{len(few):,} accounts",
            Target(COST_GROWS, "at most"),
            number=8,
        ),
    ]
