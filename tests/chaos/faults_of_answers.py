"""Faults between an operation and its answer: the reply is swallowed, and when the client asks
again something else has become true. What it hears then is news of the server, not of its
operation.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from chaos.scene import FELT_S, Loss, Scene, Struck

SWALLOWED_MIN = 4
REBUILDS_MAX = 3
RETRIES_S = 2.5
"""Long enough for every retry of what was swallowed to be made under the new condition."""


async def _swallow(scene: Scene) -> int:
    """Let sidecars and embedded meters hear nothing of Redis until some replies are gone; returns
    how many. They still hear nothing.
    """
    proxies = [*scene.cluster.links_named("sidecar-1>redis"), *_others(scene)]
    before = sum(proxy.lost for proxy in proxies)
    for proxy in proxies:
        proxy.silence(True)

    async def some_are_gone() -> bool:
        return sum(proxy.lost for proxy in proxies) >= before + SWALLOWED_MIN

    await scene.comes(some_are_gone, FELT_S)
    return sum(proxy.lost for proxy in proxies) - before


def _others(scene: Scene) -> list[object]:
    cluster = scene.cluster
    return [*cluster.links_named("sidecar-2>redis"), *cluster.links_named("embedded-1>redis")]


def _hear(scene: Scene) -> None:
    for proxy in [*scene.cluster.links_named("sidecar-1>redis"), *_others(scene)]:
        proxy.heal()


async def swallow_then_full(scene: Scene) -> Struck:
    """Memory is out when they ask again."""
    began = time.time()
    async with scene.cluster.redis() as redis:
        swallowed = await _swallow(scene)
        await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] // 2)
        try:
            _hear(scene)
            bit = await scene.felt(began, "OUT_OF_MEMORY", "OUTCOME_UNKNOWN")
            await asyncio.sleep(RETRIES_S)
        finally:
            await redis.config_set("maxmemory", "0")
    return _struck("swallow_then_full", began, swallowed, bit)


async def swallow_then_rebuild(scene: Scene) -> Struck:
    """The shards are at another epoch when they ask again: nothing there remembers the request."""
    epochs = await scene.epochs()
    began = time.time()
    swallowed = await _swallow(scene)
    try:
        for _ in range(REBUILDS_MAX):
            if await _rebuild(scene) == 0:
                break
    finally:
        _hear(scene)
    bit = await scene.rebuilt(epochs)
    return _struck("swallow_then_rebuild", began, swallowed, bit)


async def _rebuild(scene: Scene) -> int:
    """`taximeter rebuild`, past the proxies; its exit code. On a busy machine it may give up."""
    with (scene.cluster.folder / "rebuild.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "taximeter.api", "rebuild", "--wait", "0", "--force",
            env={
                **os.environ,
                "TAXIMETER_REDIS_URL": scene.cluster.valkey.url,
                "TAXIMETER_DATABASE_URL": scene.cluster.postgres.url,
            },
            stdout=log,
            stderr=log,
        )  # fmt: skip
        return await process.wait()


async def swallow_then_flush(scene: Scene) -> Struck:
    """Everything is gone when they ask again."""
    epochs = await scene.epochs()
    began = time.time()
    swallowed = await _swallow(scene)
    settled = await scene.settled()
    async with scene.cluster.redis() as redis:
        await redis.flushall()
    emptied = time.time()
    _hear(scene)
    bit = await scene.rebuilt(epochs)
    struck = _struck("swallow_then_flush", began, swallowed, bit)
    struck.loss = Loss("redis", 0.0, emptied, settled)
    return struck


def _struck(name: str, began: float, swallowed: int, bit: bool) -> Struck:
    detail = {"replies": swallowed}
    return Struck(name, began, time.time(), bit and swallowed >= SWALLOWED_MIN, detail)


async def restart_in_outage(scene: Scene) -> Struck:
    """Redis is silent, and the process that has answers in flight is told to end: what it owes is
    owed by the next one, or was told as unknown.
    """
    server, cluster = scene.cluster.valkey, scene.cluster
    name = scene.random.choice(sorted(n for n in cluster.workers if n.startswith("sidecar")))
    began = time.time()
    server.pause()
    try:
        felt = await scene.felt(time.time())
        cluster.down.add(name)
        in_time = await asyncio.to_thread(cluster.workers[name].stop)
        cluster.down.discard(name)
    finally:
        server.resume()
    served = await scene.served(time.time())
    detail = {"process": name, "ended in time": in_time}
    return Struck("restart_in_outage", began, time.time(), felt and served, detail)


FAULTS: dict[str, Callable[[Scene], Awaitable[Struck]]] = {
    "swallow_then_full": swallow_then_full,
    "swallow_then_rebuild": swallow_then_rebuild,
    "swallow_then_flush": swallow_then_flush,
    "restart_in_outage": restart_in_outage,
}
