"""Target 2: reserve and commit through Meter, against the guide's function in Postgres and against
redis-py.
"""

from __future__ import annotations

import itertools

from bench.harness import Figure, Side, Target, closed_loop, take_turns
from bench.live import LiveShards, make_accounts, request_ids
from bench.peers import (
    AMOUNT,
    HELD,
    Deductions,
    RedisPy,
    fund,
    open_deduction_pool,
    usage,
)
from bench.servers import Servers
from taximeter.meter import Meter

OVER_POSTGRES = {100: 12.0, 1_000: 20.0}
OVER_REDIS_PY = {100: 4.0}


async def run(servers: Servers) -> list[Figure]:
    """A request is a hold and its commit: two waits of its caller, two operations in Redis."""
    scale = servers.scale
    accounts = make_accounts(scale.users, scale.organisations)
    figures = []
    async with servers.redis() as (url, redis), servers.database() as database_url:
        pool = await open_deduction_pool(database_url)
        async with pool:
            await fund(pool, accounts)
            live = LiveShards(redis, servers.prefix, accounts)
            deductions = Deductions(pool, accounts, "deduct")
            for callers, bound in OVER_POSTGRES.items():
                sides: dict[str, Side] = {"Postgres": deductions.round}
                if callers in OVER_REDIS_PY:
                    sides["redis-py"] = redis_py_side(url, live, callers)
                sides["ours"] = meter_side(url, live, callers)
                seen = await take_turns(
                    sides,
                    rounds=scale.rounds,
                    seconds=scale.round_s,
                    warm_up_s=scale.warm_up_s,
                )
                title = f"reserve + commit, {callers:,} callers"
                figures.append(
                    Figure(
                        f"requests_{callers}_over_postgres",
                        title,
                        "/s",
                        seen["ours"],
                        seen["Postgres"],
                        "deduct_credits in Postgres",
                        Target(bound, "at least"),
                        number=2,
                    )
                )
                if callers in OVER_REDIS_PY:
                    figures.append(
                        Figure(
                            f"requests_{callers}_over_redis_py",
                            title,
                            "/s",
                            seen["ours"],
                            seen["redis-py"],
                            "redis-py, EVALSHA each",
                            Target(OVER_REDIS_PY[callers], "at least"),
                            number=2,
                        )
                    )
        await live.remove()
    return figures


def redis_py_side(url: str, live: LiveShards, callers: int) -> Side:
    """Requests a second with two script calls each."""

    async def side(seconds: float) -> float:
        await live.reset()
        peer = RedisPy(url, live.keys(0), live.accounts, "peer", callers)
        try:
            done = await closed_loop(peer.request, callers=callers, seconds=seconds)
        finally:
            await peer.aclose()
        await live.prove(done.total, AMOUNT)
        return done.per_second

    return side


def meter_side(url: str, live: LiveShards, callers: int) -> Side:
    """Requests a second through one Meter."""

    async def side(seconds: float) -> float:
        await live.reset()
        accounts, ids = itertools.cycle(live.accounts), request_ids("ours")
        numbers = itertools.count()
        async with await Meter.connect(url, key_prefix=live.prefix) as meter:

            async def once() -> None:
                org_id, user_id = next(accounts)
                hold = await meter.reserve(org_id, user_id, HELD, request_id=next(ids))
                await hold.commit(AMOUNT, usage=usage(next(numbers)))

            done = await closed_loop(once, callers=callers, seconds=seconds)
        await live.prove(done.total, AMOUNT)
        return done.per_second

    return side
