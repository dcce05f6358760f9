"""One clone's client, for `bench.against`: runs in that clone's code whatever it is told to, as a
program of its own, `python -P turns.py URL PREFIX`. Every line in and out is JSON.

With `once`, WORK, CALLERS and OPERATIONS after these it does that alone and ends: what valgrind
counts. So nothing is imported before it is needed, and nothing that older clones may not have.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from taximeter.meter import Meter, Usage

AMOUNT: Final = 50
HELD: Final = 80
USERS, ORGANISATIONS = 1_000, 50
PURPOSES: Final = 999


def accounts() -> list[tuple[str, str]]:
    """The same for all."""
    return [(f"bench-org-{user % ORGANISATIONS:03}", f"user-{user:07}") for user in range(USERS)]


def usage(number: int) -> Usage:
    """What a charge is for, made for each of them as a gateway does."""
    number %= PURPOSES
    return Usage("llm_inference", "gpt-4o-mini", {"provider": "openai", "tokens": 1000 + number})


def once(meter: Meter, work: str, label: str) -> Callable[[], Awaitable[None]]:
    """What a caller repeats: `charges`, or `requests` (a reserve and its commit)."""
    turn, numbers = itertools.cycle(accounts()), itertools.count()

    async def charge() -> None:
        number = next(numbers)
        await meter.charge(
            *next(turn), AMOUNT, request_id=f"{label}-{number:x}", usage=usage(number)
        )

    async def request() -> None:
        number = next(numbers)
        hold = await meter.reserve(*next(turn), HELD, request_id=f"{label}-{number:x}")
        await hold.commit(AMOUNT, usage=usage(number))

    return {"charges": charge, "requests": request}[work]


async def repeat(call: Callable[[], Awaitable[None]], callers: int, times: int) -> None:
    """So many calls in all, each caller waiting for its own answers."""
    left = times

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(caller() for _ in range(min(callers, times))))


async def measured(
    url: str, prefix: str, redis: Any, work: str, callers: int, operations: int, label: str
) -> dict[str, float]:
    """Microseconds of processor an operation, of the client and of the thread of Redis."""

    async def spent() -> float:
        found = await redis.info("cpu")
        seconds: float = found["used_cpu_user_main_thread"] + found["used_cpu_sys_main_thread"]
        return seconds

    async with await Meter.connect(url, key_prefix=prefix) as meter:
        call = once(meter, work, label)
        await repeat(call, callers, 2 * callers)
        gc.collect()
        theirs, mine, began = await spent(), time.process_time(), time.perf_counter()
        await repeat(call, callers, operations)
        took, mine = time.perf_counter() - began, time.process_time() - mine
        theirs = await spent() - theirs
    return {
        "client_us": 1e6 * mine / operations,
        "server_us": 1e6 * theirs / operations,
        "per_second": operations / took,
    }


async def serve(url: str, prefix: str) -> None:
    """Do what each line says, and answer it with a line."""
    from redis.asyncio import Redis

    import bench.live
    import taximeter

    # It had one shard alone, and this name, before there were clusters.
    names = vars(bench.live)
    live_class = names.get("LiveShards") or names["LiveShard"]
    redis = Redis.from_url(url)
    live = live_class(redis, prefix, accounts())
    answer: dict[str, Any] = {"code": taximeter.__path__[0]}
    while True:
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        told = json.loads(line)
        answer = {}
        if told["do"] == "reset":
            await live.reset()
        elif told["do"] == "prove":
            await live.prove(told["charges"], AMOUNT)
        else:
            await live.reset()
            answer = await measured(
                url, prefix, redis, told["work"], told["callers"], told["operations"], "round"
            )
            await live.prove(told["operations"] + 2 * told["callers"], AMOUNT)
    await redis.aclose()


async def alone(url: str, prefix: str, work: str, callers: int, operations: int) -> None:
    """So many operations, and nothing else."""
    async with await Meter.connect(url, key_prefix=prefix) as meter:
        await repeat(once(meter, work, f"alone-{operations}"), callers, operations)


if __name__ == "__main__":
    if sys.argv[3:4] == ["once"]:
        url, prefix, _, work, callers, operations = sys.argv[1:]
        uvloop.run(alone(url, prefix, work, int(callers), int(operations)))
    else:
        url, prefix = sys.argv[1:]
        uvloop.run(serve(url, prefix))
