"""Faults of our own processes: killed, paused, restarted in good order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.scene import Scene, Struck

KILLS_MAX = 5


def _one_of(scene: Scene, kind: str) -> str:
    names = sorted(name for name in scene.cluster.workers if name.startswith(kind))
    return scene.random.choice(names)


def kill(kind: str) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGKILL; it is started again at once, as a service manager would."""

    async def strike(scene: Scene) -> Struck:
        name = _one_of(scene, kind)
        worker = scene.cluster.workers[name]
        before = await _settled_to(scene)
        began = time.time()
        for _ in range(KILLS_MAX):
            await asyncio.to_thread(worker.kill)
            killed = time.time()
            await asyncio.sleep(scene.random.uniform(0.2, 0.8))
            bit = await _missed(scene, kind, killed, before)
            # A gateway that had nothing on its way is killed once more, when it is at work again.
            if bit or kind != "gateway":
                break
            await scene.served(killed)
        return Struck(f"kill_{kind}", began, time.time(), bit, {"process": name})

    return strike


def pause(kind: str) -> Callable[[Scene], Awaitable[Struck]]:
    """SIGSTOP for a while, then SIGCONT: all its time-outs are over when it wakes."""

    async def strike(scene: Scene) -> Struck:
        name = _one_of(scene, kind)
        worker = scene.cluster.workers[name]
        before = await _settled_to(scene)
        began = time.time()
        worker.pause()
        await asyncio.sleep(scene.random.uniform(2.0, 3.5))
        worker.resume()
        bit = await _missed(scene, kind, began, before)
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


async def kill_scheduler_redis(scene: Scene) -> Struck:
    """The Redis of the schedule dies and comes back empty: nothing of value was there."""
    before = await _settled_to(scene)
    began = time.time()
    await asyncio.to_thread(scene.cluster.arq.kill)
    await asyncio.sleep(scene.random.uniform(0.3, 1.0))
    await asyncio.to_thread(scene.cluster.arq.start)
    bit = await _settles_on(scene, before)
    return Struck("kill_scheduler_redis", began, time.time(), bit)


async def _missed(scene: Scene, kind: str, began: float, before: int) -> bool:
    """Whether it was felt: by callers, or in the work of the others that went on without it."""
    if kind == "sidecar":
        return await scene.felt(began)
    if kind == "gateway":
        return any(one.outcome == "unknown" for one in scene.attempts() if one.at <= began)
    if kind == "settler":
        return await _settles_on(scene, before)
    return True


async def _settles_on(scene: Scene, before: int) -> bool:
    async def is_further() -> bool:
        return await _settled_to(scene) > before

    return await scene.comes(is_further, 20.0)


async def _settled_to(scene: Scene) -> int:
    conn = await scene.cluster.database()
    try:
        return int(await conn.fetchval("SELECT coalesce(sum(seq), 0) FROM taximeter.watermarks"))
    finally:
        await conn.close()


FAULTS = {
    **{f"kill_{kind}": kill(kind) for kind in ("gateway", "sidecar", "settler", "api")},
    **{f"pause_{kind}": pause(kind) for kind in ("gateway", "sidecar", "settler", "api")},
    **{f"restart_{kind}": restart(kind) for kind in ("sidecar", "settler", "api")},
    "kill_scheduler_redis": kill_scheduler_redis,
}
