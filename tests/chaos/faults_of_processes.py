"""Faults of our own processes: killed, paused, restarted in good order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.scene import BOUND_S, FELT_S, Scene, Struck

TRIES = 8
"""A gateway has something on its way most of the time, not always."""


def _one_of(scene: Scene, kind: str) -> str:
    names = sorted(name for name in scene.cluster.workers if name.startswith(kind))
    return scene.random.choice(names)


def kill(kind: str) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGKILL; it is started again at once, as a service manager would."""

    async def strike(scene: Scene) -> Struck:
        name = _one_of(scene, kind)
        worker = scene.cluster.workers[name]
        began = time.time()
        for _ in range(TRIES):
            caller = f"{name}-{worker.pid}"
            await asyncio.to_thread(worker.kill)
            killed = time.time()
            bit = await _missed(scene, kind, killed, caller)
            await asyncio.sleep(scene.random.uniform(0.2, 0.8))
            # A gateway that had nothing on its way is killed once more, when it is at work again.
            if bit or kind != "gateway":
                break
            await _calls(scene, f"{name}-{worker.pid}")
        return Struck(f"kill_{kind}", began, time.time(), bit, {"process": name})

    return strike


def pause(kind: str) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGSTOP for a while, and until it is missed, then SIGCONT: all its time-outs are over when it
    wakes.
    """

    async def strike(scene: Scene) -> Struck:
        name = _one_of(scene, kind)
        worker = scene.cluster.workers[name]
        began = time.time()
        for _ in range(TRIES):
            caller = f"{name}-{worker.pid}"
            if kind == "gateway":
                await _calls(scene, caller)
            paused = time.time()
            worker.pause()
            try:
                bit = await _missed(scene, kind, paused, caller)
                await asyncio.sleep(scene.random.uniform(2.0, 3.5))
            finally:
                worker.resume()
            if bit or kind != "gateway":
                break
        return Struck(f"pause_{kind}", began, time.time(), bit, {"process": name})

    return strike


def restart(kind: str) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGTERM, and started again when it has ended. Bites only if it ends within its grace."""

    async def strike(scene: Scene) -> Struck:
        name = _one_of(scene, kind)
        worker = scene.cluster.workers[name]
        began = time.time()
        scene.cluster.down.add(name)
        in_time = await asyncio.to_thread(worker.stop)
        scene.cluster.down.discard(name)
        ended = time.time()
        await scene.served(ended)
        detail = {"process": name, "seconds": round(ended - began, 2)}
        return Struck(f"restart_{kind}", began, ended, in_time, detail)

    return strike


def freeze(name: str, which: int) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGSTOP of one settler, or of both, for longer than anything of theirs is kept; then they
    wake, each believing that it is still then. While one is frozen the other settles, and what
    wakes stops nobody.
    """

    async def strike(scene: Scene) -> Struck:
        workers = [scene.cluster.workers[f"settler-{number}"] for number in (1, 2)]
        frozen = scene.random.sample(workers, which)
        began, others = time.time(), True
        for worker in frozen:
            worker.pause()
        try:
            await asyncio.sleep(scene.random.uniform(12.0, 16.0))
            if which == 1:
                others = await settles(scene)
        finally:
            for worker in frozen:
                worker.resume()
        woke = time.monotonic()
        bit = await settles(scene) and others
        detail = {"settled after_s": round(time.monotonic() - woke, 1)}
        return Struck(name, began, time.time(), bit, detail)

    return strike


async def kill_scheduler_redis(scene: Scene) -> Struck:
    """The Redis of the schedule dies and comes back empty: nothing of value was there."""
    began = time.time()
    await asyncio.to_thread(scene.cluster.arq.kill)
    await asyncio.sleep(scene.random.uniform(0.3, 1.0))
    await asyncio.to_thread(scene.cluster.arq.start)
    bit = await settles(scene)
    return Struck("kill_scheduler_redis", began, time.time(), bit)


async def _missed(scene: Scene, kind: str, since: float, caller: str) -> bool:
    """Wait until it is felt: by its callers, by the one who called when it was struck, or in the
    work of the others that goes on without it.
    """
    if kind == "sidecar":
        return await scene.felt(since)
    if kind == "gateway":
        # What it had on its way, and nobody else's.
        return any(
            one.caller == caller and one.at <= since and not one.answered
            for one in scene.attempts()
        )
    if kind == "api":

        async def is_felt() -> bool:
            return scene.administered(since) > 0

        return await scene.comes(is_felt, FELT_S)
    return await settles(scene)


async def _calls(scene: Scene, caller: str) -> bool:
    """Wait until that gateway has a call on its way."""

    async def is_calling() -> bool:
        return any(one.caller == caller and not one.answered for one in scene.attempts())

    return await scene.comes(is_calling, FELT_S)


async def settles(scene: Scene) -> bool:
    """Wait until more is settled than at this moment."""
    before = await _settled_to(scene)

    async def is_further() -> bool:
        return await _settled_to(scene) > before

    return await scene.comes(is_further, BOUND_S)


async def _settled_to(scene: Scene) -> int:
    """How many events are settled in the epochs that the shards are at. No rebuild comes between
    two of these, since a fault that makes one waits for its end.
    """
    conn = await scene.cluster.database()
    try:
        return int(await conn.fetchval("SELECT coalesce(sum(seq), 0) FROM taximeter.watermarks"))
    finally:
        await conn.close()


FAULTS = {
    **{f"kill_{kind}": kill(kind) for kind in ("gateway", "sidecar", "settler", "api")},
    **{f"pause_{kind}": pause(kind) for kind in ("gateway", "sidecar", "settler", "api")},
    **{f"restart_{kind}": restart(kind) for kind in ("sidecar", "settler", "api")},
    "freeze_settler": freeze("freeze_settler", 1),
    "freeze_settlers": freeze("freeze_settlers", 2),
    "kill_scheduler_redis": kill_scheduler_redis,
}
