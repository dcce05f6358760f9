"""Faults of the network between two processes: what our proxy can do to a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from support.proxy import Proxy

from chaos.scene import FELT_S, Scene, Struck
from chaos.settings import LINKS


def befall(
    name: str,
    begin: Callable[[Proxy, Scene], object],
    once: bool = False,
    least_s: float = 1.5,
    most_s: float = 3.0,
) -> Callable[[Scene], Awaitable[Struck]]:
    """A fault of all links of one kind, for a while, and until a connection or a piece of what it
    carries was touched; then they are plain wires again. `once`: it befalls only what is there when
    it begins.
    """

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
        await asyncio.sleep(scene.random.uniform(least_s, most_s))

        async def is_touched() -> bool:
            if sum(proxy.touched for proxy in proxies) > touched:
                return True
            if once:
                # It fell between two connections: once more.
                for proxy in proxies:
                    begin(proxy, scene)
            return False

        bit = await scene.comes(is_touched, FELT_S)
        for proxy in proxies:
            proxy.heal()
        count = sum(proxy.touched for proxy in proxies) - touched
        return Struck(name, began, time.time(), bit, {"links": part, "touched": count})

    return strike


FAULTS = {
    "delay": befall("delay", lambda proxy, scene: proxy.delay(scene.random.uniform(0.05, 0.6))),
    "lose_replies": befall("lose_replies", lambda proxy, scene: proxy.silence(True)),
    "reset": befall(
        "reset", lambda proxy, scene: proxy.reset_all(), once=True, least_s=0.3, most_s=0.3
    ),
    "half_open": befall("half_open", lambda proxy, scene: proxy.half_open(), once=True),
    "slice": befall("slice", lambda proxy, scene: proxy.slice(scene.random.randint(1, 40))),
    "black_hole": befall("black_hole", lambda proxy, scene: proxy.black_hole(True)),
}
