"""A server that is busy with something else, and callers who leave in the middle of a call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from support.proxy import Proxy
from support.shard import ScriptedShard
from support.waiting import answered

from taximeter.meter import Meter, MeterSettings, StoreUnavailable
from taximeter.meter.wire.keys import ShardKeys

USERS = 20


async def test_a_server_that_is_busy_with_a_script_refuses_in_time(
    valkey_server: Callable[..., Any],
) -> None:
    """Somebody's endless script: callers hear no within their patience, and then all is well."""
    server = valkey_server("--busy-reply-threshold", "50")
    async with Redis.from_url(server.url) as redis, Redis.from_url(server.url) as other:
        shard = ScriptedShard(redis, ShardKeys("tm", 0))
        await shard.open()
        await shard.load("org/u", 1000)
        settings = MeterSettings(take_timeout_s=3.0, call_timeout_s=1.0)
        async with await Meter.connect(server.url, settings=settings) as meter:
            await answered(lambda: meter.charge("org", "u", 1, request_id="before"))
            endless = asyncio.create_task(other.eval("while true do end", 0))
            await asyncio.sleep(0)

            async def charge_until_refused() -> None:
                while True:
                    await meter.charge("org", "u", 0)

            with pytest.raises(StoreUnavailable):
                await charge_until_refused()
            async with asyncio.timeout(60):
                while not endless.done():
                    with suppress(RedisError):
                        await redis.script_kill()
                    await asyncio.sleep(0.05)
            with suppress(RedisError):
                await endless
            async with asyncio.timeout(60):
                while True:
                    with suppress(StoreUnavailable):
                        await meter.charge("org", "u", 10, request_id="after")
                        break
            assert (await meter.balance("org", "u")).available == 1000 - 1 - 10


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_gets_the_answer_of_a_caller_who_left(
    connect: Any, shard: ScriptedShard, redis_url: str, seed: int
) -> None:
    """A reply that is left on a connection would be the next caller's: of another account."""
    dice = random.Random(seed)
    for number in range(USERS):
        await shard.load(f"org/u{number}", 1_000 + number)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(url=proxy.url, take_timeout_s=20.0)
        proxy.delay(0.005)
        cancelled = 0

        async def look(number: int) -> None:
            balance = await meter.balance("org", f"u{number}")
            assert balance.available + balance.held == 1_000 + number

        async def hold(number: int, request_id: str) -> None:
            held = await meter.reserve("org", f"u{number}", number + 1, request_id=request_id)
            assert (held.user_id, held.amount) == (f"u{number}", number + 1)
            assert held.available + held.held == 1_000 + number
            await held.release()

        for round_ in range(15):
            tasks = [
                asyncio.create_task(look(n) if n % 2 else hold(n, f"{round_}-{n}"))
                for n in range(USERS)
            ]
            await asyncio.sleep(dice.uniform(0.0, 0.03))
            for task in dice.sample(tasks, USERS // 2):
                cancelled += task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(outcome, asyncio.CancelledError):
                    assert outcome is None, outcome
        assert cancelled, "nobody left in the middle"
        proxy.heal()
        await meter.aclose()
    for number in range(USERS):
        assert await shard.account(f"org/u{number}") == (1_000 + number, 0, 1)
