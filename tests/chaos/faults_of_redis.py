"""Faults of Valkey that lose nothing of what it has promised to keep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.scene import FELT_S, Loss, Scene, Struck

POSTPONED_S = 2.0
"""With everysec, a write may wait this long behind an fsync that is under way: the promise."""


async def kill_redis(scene: Scene) -> Struck:
    """SIGKILL. With `always` nothing is lost that was answered, else what was written in the last
    two seconds may be.
    """
    server = scene.cluster.valkey
    settled = await scene.settled()
    began = time.time()
    await asyncio.to_thread(server.kill)
    killed = time.time()
    bit = await scene.felt(killed)
    await asyncio.sleep(scene.random.uniform(0.0, 1.0))
    await asyncio.to_thread(server.start)
    # Usable means that the guardian has looked at it: nobody is let in before.
    await scene.usable()
    # With `always` nothing that was answered is gone; but no start is taken for one without a loss.
    loss = Loss("start", began, killed)
    if scene.cluster.run.fsync != "always":
        loss = Loss("redis", began - POSTPONED_S, killed, settled)
    return Struck("kill_redis", began, time.time(), bit, loss=loss)


async def restart_redis(scene: Scene) -> Struck:
    """SIGTERM and a new start: nothing is lost, and a new run id is approved."""
    server = scene.cluster.valkey
    epochs = await scene.epochs()
    began = time.time()
    await asyncio.to_thread(server.stop)
    stopped = time.time()
    await asyncio.to_thread(server.start)
    await scene.usable()
    # Whole data is let in again as it is; an epoch more would mean that it was not trusted.
    bit = await scene.epochs() == epochs
    return Struck("restart_redis", began, time.time(), bit, loss=Loss("start", began, stopped))


async def pause_redis(scene: Scene) -> Struck:
    """SIGSTOP, until it is felt and a while more: connections stay open and nobody answers."""
    server = scene.cluster.valkey
    began = time.time()
    server.pause()
    try:
        bit = await scene.felt(time.time())
        await asyncio.sleep(scene.random.uniform(2.0, 3.0))
    finally:
        server.resume()
    return Struck("pause_redis", began, time.time(), bit)


async def script_flush(scene: Scene) -> Struck:
    """Every script is forgotten, many times; callers send the text again and notice nothing."""
    began = time.time()
    async with scene.cluster.redis() as redis:

        async def texts() -> int:
            calls = (await redis.info("commandstats")).get("cmdstat_eval", {})
            return int(calls.get("calls", 0))

        before = await texts()
        for _ in range(20):
            await redis.script_flush()
            await asyncio.sleep(0.05)

        async def is_sent() -> bool:
            return await texts() > before

        bit = await scene.comes(is_sent, FELT_S)
        detail = {"texts_sent": await texts() - before}
    return Struck("script_flush", began, time.time(), bit, detail)


async def client_kill(scene: Scene) -> Struck:
    """CLIENT KILL of every connection, some times over."""
    began, killed = time.time(), 0
    async with scene.cluster.redis() as redis:
        for pause_s in [scene.random.uniform(0.1, 0.4) for _ in range(4)]:

            async def some_are_killed() -> bool:
                nonlocal killed
                count = int(
                    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                )
                killed += count
                return count > 0

            # Between two of them nobody may be connected yet.
            await scene.comes(some_are_killed, FELT_S / 4)
            await asyncio.sleep(pause_s)
    return Struck("client_kill", began, time.time(), killed > 0, {"killed": killed})


async def memory_full(scene: Scene) -> Struck:
    """maxmemory below what is used: no credits are taken, holds end, events are settled."""
    began = time.time()
    async with scene.cluster.redis() as redis:
        await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] // 2)
        try:
            bit = await scene.felt(began, "OUT_OF_MEMORY")

            async def a_commit_works() -> bool:
                return any(
                    one.op == "commit" and one.outcome == "ok" and one.at >= began
                    for one in scene.attempts()
                )

            bit = bit and await scene.comes(a_commit_works, FELT_S)
        finally:
            await redis.config_set("maxmemory", "0")
    return Struck("memory_full", began, time.time(), bit)


def move_clock(name: str, by_s: Callable[[Scene], float]) -> Callable[[Scene], Awaitable[Struck]]:
    """The clock of the Valkey server jumps, and stays where it is until the next jump."""

    async def strike(scene: Scene) -> Struck:
        server = scene.cluster.valkey
        began = time.time()
        async with scene.cluster.redis() as redis:
            before = (await redis.time())[0] - time.time()
            wanted = round(before) + by_s(scene)
            server.set_clock(wanted)
            ahead = before

            async def is_moved() -> bool:
                nonlocal ahead
                ahead = (await redis.time())[0] - time.time()
                return abs(ahead - wanted) < 1.5

            moved = await scene.comes(is_moved, FELT_S)
        moved_at = time.time()
        await asyncio.sleep(scene.random.uniform(2.0, 3.5))
        bit = moved and await scene.served(moved_at)
        return Struck(name, began, time.time(), bit, {"ahead_s": round(ahead, 1)})

    return strike


FAULTS = {
    "kill_redis": kill_redis,
    "restart_redis": restart_redis,
    "pause_redis": pause_redis,
    "script_flush": script_flush,
    "client_kill": client_kill,
    "memory_full": memory_full,
    "clock_ahead": move_clock("clock_ahead", lambda scene: scene.random.uniform(20.0, 90.0)),
    "clock_back": move_clock("clock_back", lambda scene: -scene.random.uniform(3.0, 12.0)),
}
