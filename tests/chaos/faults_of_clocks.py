"""The wall clock of our own processes steps, and is corrected again. What they measure pauses with
stays true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.faults_of_processes import settles
from chaos.scene import Scene, Struck

LOOKED_AT_S = 2.5


def step(kind: str, least_s: float, most_s: float) -> Callable[[Scene], Awaitable[Struck]]:
    """All processes of a kind at once. It bites when the step was made; work must go on after it
    and after its correction.
    """

    async def strike(scene: Scene) -> Struck:
        name, began = f"clock_of_{kind}", time.time()
        workers = [w for n, w in scene.cluster.workers.items() if n.startswith(kind)]
        by_s = scene.random.choice((least_s, most_s)) * scene.random.uniform(0.2, 1.0)
        took = []
        for ahead_s in (by_s, 0.0):
            stepped = time.monotonic()
            for worker in workers:
                worker.set_clock(ahead_s)
            # They look at it once a second; what a clock would stop must have had the time to stop.
            await asyncio.sleep(LOOKED_AT_S)
            goes_on = await settles(scene) and await scene.served(time.time())
            took.append(round(time.monotonic() - stepped, 1))
            if not goes_on:
                break
        bit = goes_on and len(took) == 2
        return Struck(name, began, time.time(), bit, {"ahead_s": round(by_s), "took_s": took})

    return strike


FAULTS: dict[str, Callable[[Scene], Awaitable[Struck]]] = {
    "clock_of_settler": step("settler", -3_600.0, 3_600.0),
    "clock_of_sidecar": step("sidecar", -3_600.0, 3_600.0),
    # Sessions are dated: one that was made after now is refused, as it should be.
    "clock_of_api": step("api", -1.0, 3_600.0),
}
