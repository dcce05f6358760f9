"""Target 3: what an operation costs Redis, by Redis' own count, in batches and alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from bench.harness import Figure, Side, Target, take_turns
from bench.live import Account, LiveShards, make_accounts, request_ids, script_time
from bench.peers import AMOUNT, HELD, PAYLOADS, TTL_MS
from bench.servers import Servers

BATCH = 100
TRIVIAL = "return redis.call('DECRBY', KEYS[1], ARGV[1])"
TARGETS = {BATCH: 2.2, 1: 9.0}
"""Multiples of the trivial script, by operations of a call."""

Step = Callable[[], Awaitable[int]]


async def run(servers: Servers) -> list[Figure]:
    """One connection, one call after the other, reserves and commits in turn: nothing hides behind
    anything.
    """
    scale = servers.scale
    accounts = make_accounts(scale.users, scale.organisations)
    figures = []
    async with servers.redis() as (_, redis):
        live = LiveShards(redis, servers.prefix, accounts)
        seen = await take_turns(
            {
                "trivial": _timed(redis, await _trivial(redis, live)),
                "batch": _timed_live(live, BATCH),
                "alone": _timed_live(live, 1),
            },
            rounds=scale.rounds,
            seconds=scale.round_s / 2,
            warm_up_s=scale.warm_up_s,
        )
        await live.remove()
    for side, batch, title in (
        ("batch", BATCH, f"Redis time of an operation, {BATCH} a call"),
        ("alone", 1, "Redis time of an operation, one a call"),
    ):
        figures.append(
            Figure(
                f"server_time_{side}",
                title,
                "µs",
                seen[side],
                seen["trivial"],
                "a trivial script, one DECRBY",
                Target(TARGETS[batch], "at most"),
                number=3,
            )
        )
    return figures


def operations_in_turn(
    accounts: Sequence[Account], label: str
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Endless pairs of a reserve and the commit that ends it, as arguments of the script."""
    turn, ids = itertools.cycle(accounts), request_ids(label)
    payloads = itertools.cycle(PAYLOADS)
    for (org_id, user_id), request_id, payload in zip(turn, ids, payloads, strict=False):
        account, key = f"{org_id}/{user_id}", f"{org_id}/{request_id}"
        yield (
            ["reserve", account, key, HELD, TTL_MS, "0a0b0c0d", ""],
            ["commit", account, key, AMOUNT, 0, "", payload],
        )


def batches(accounts: Sequence[Account], size: int, label: str) -> Iterator[list[list[Any]]]:
    """Endless calls of `size` operations. Half of a call opens holds, the other half ends those of
    the call before.
    """
    pairs = operations_in_turn(accounts, label)
    if size == 1:
        for reserve, commit in pairs:
            yield [reserve]
            yield [commit]
    ending: list[list[Any]] = []
    while True:
        opened = list(itertools.islice(pairs, size - size // 2))
        yield [reserve for reserve, _ in opened] + ending
        ending = [commit for _, commit in opened][: size // 2]


def _timed_live(live: LiveShards, size: int) -> Side:
    async def side(seconds: float) -> float:
        await live.reset()
        calls = batches(live.accounts, size, "alone" if size == 1 else "batch")

        async def step() -> int:
            operations = next(calls)
            for reply in await live.operate(operations):
                assert reply.startswith(b"1 "), reply
            return len(operations)

        await step()
        return await _timed(live.redis, step)(seconds)

    return side


async def _trivial(redis: Any, live: LiveShards) -> Step:
    sha = await redis.script_load(TRIVIAL)
    key = f"{live.prefix}:trivial"

    async def step() -> int:
        await redis.evalsha(sha, 1, key, 1)
        return 1

    return step


def _timed(redis: Any, step: Step) -> Side:
    """Microseconds of EVALSHA an operation, over as many steps as fit."""

    async def side(seconds: float) -> float:
        return await redis_time(redis, step, seconds)

    return side


async def redis_time(redis: Any, step: Step, seconds: float) -> float:
    """Microseconds that Redis spends in EVALSHA an operation, while `step` is repeated for that
    long.
    """
    operations = 0
    before = await script_time(redis)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        operations += await step()
    return (await script_time(redis) - before).microseconds / operations
