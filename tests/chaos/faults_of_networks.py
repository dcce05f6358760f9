"""Faults of the network between two processes: what our proxy can do to a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from support.proxy import Proxy

from chaos.scene import Scene, Struck
from chaos.settings import LINKS


def befall(
    name: str, begin: Callable[[Proxy, Scene], object], lasting: bool = True
) -> Callable[[Scene], Awaitable[Struck]]:
    """A fault of all links of one kind, for a while; then they are plain wires again."""

    async def strike(scene: Scene) -> Struck:
        # Where nobody is connected there is nothing to break.
        parts = [
            part
            for part in LINKS
            if any(proxy.connections for proxy in scene.cluster.links_named(part))
        ]
        part = scene.random.choice(parts or LINKS)
        proxies = scene.cluster.links_named(part)
        touched = sum(proxy.touched for proxy in proxies)
        began = time.time()
        for proxy in proxies:
            begin(proxy, scene)
        await asyncio.sleep(scene.random.uniform(1.5, 3.0) if lasting else 0.3)

        async def is_touched() -> bool:
            return sum(proxy.touched for proxy in proxies) > touched

        bit = await scene.comes(is_touched, 3.0)
        for proxy in proxies:
            proxy.heal()
        count = sum(proxy.touched for proxy in proxies) - touched
        return Struck(name, began, time.time(), bit, {"links": part, "touched": count})

    return strike


FAULTS = {
    "delay": befall("delay", lambda proxy, scene: proxy.delay(scene.random.uniform(0.05, 0.6))),
    "lose_replies": befall("lose_replies", lambda proxy, scene: proxy.silence(True)),
    "reset": befall("reset", lambda proxy, scene: proxy.reset_all(), lasting=False),
    "half_open": befall("half_open", lambda proxy, scene: proxy.half_open()),
    "slice": befall("slice", lambda proxy, scene: proxy.slice(scene.random.randint(1, 40))),
    "black_hole": befall("black_hole", lambda proxy, scene: proxy.black_hole(True)),
}
