"""Target 1: charges through Meter, against redis-py with a script call for each."""

from __future__ import annotations

import itertools

from bench.harness import Figure, Side, Target, closed_loop, take_turns
from bench.live import LiveShards, make_accounts, request_ids
from bench.peers import AMOUNT, RedisPy, usage
from bench.servers import Servers
from taximeter.meter import Meter

TARGETS = {100: 8.0, 1_000: 20.0}


async def run(servers: Servers) -> list[Figure]:
    """Each round starts from the same empty shard, and ends with a proof of what was charged."""
    scale = servers.scale
    accounts = make_accounts(scale.users, scale.organisations)
    figures = []
    async with servers.redis() as (url, redis):
        live = LiveShards(redis, servers.prefix, accounts)
        for callers, bound in TARGETS.items():
            seen = await take_turns(
                {"redis-py": _redis_py(url, live, callers), "ours": _meter(url, live, callers)},
                rounds=scale.rounds,
                seconds=scale.round_s,
                warm_up_s=scale.warm_up_s,
            )
            figures.append(
                Figure(
                    f"charges_{callers}",
                    f"charges, {callers:,} callers",
                    "/s",
                    seen["ours"],
                    seen["redis-py"],
                    "redis-py, EVALSHA each",
                    Target(bound, "at least"),
                    number=1,
                )
            )
        await live.remove()
    return figures


def _redis_py(url: str, live: LiveShards, callers: int) -> Side:
    async def side(seconds: float) -> float:
        await live.reset()
        peer = RedisPy(url, live.keys(0), live.accounts, "peer", callers)
        try:
            done = await closed_loop(peer.charge, callers=callers, seconds=seconds)
        finally:
            await peer.aclose()
        await live.prove(done.total, AMOUNT)
        return done.per_second

    return side


def _meter(url: str, live: LiveShards, callers: int) -> Side:
    async def side(seconds: float) -> float:
        await live.reset()
        accounts, ids = itertools.cycle(live.accounts), request_ids("ours")
        numbers = itertools.count()
        async with await Meter.connect(url, key_prefix=live.prefix) as meter:

            async def once() -> None:
                org_id, user_id = next(accounts)
                await meter.charge(
                    org_id, user_id, AMOUNT, request_id=next(ids), usage=usage(next(numbers))
                )

            done = await closed_loop(once, callers=callers, seconds=seconds)
        await live.prove(done.total, AMOUNT)
        return done.per_second

    return side
