"""What an operation gives to Python's collector of cyclic garbage while it waits for its reply.
Each object that it tracks brings the next collection nearer. Counted, so the same on every machine.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from support.shard import ScriptedShard

from taximeter.meter import Charge, Meter, Reserve, Usage

CALLS = 200
ONCE = 60
"""Objects of all calls together: what wakes a lane, say."""

Begin = Callable[[], Coroutine[Any, Any, Any]]


async def tracked(begin: Begin, calls: int = CALLS, then: Callable[[], None] = lambda: None) -> int:
    """Objects of so many calls at once, before anybody has come for them."""
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        tasks = [asyncio.create_task(begin()) for _ in range(calls)]
        await asyncio.sleep(0)  # All of them wait now, and the lanes have their turn after us.
        found = gc.get_count()[0] - before
    finally:
        gc.enable()
    then()
    await asyncio.gather(*tasks)
    return found


async def test_what_waits_for_its_reply_is_few_objects(meter: Meter, shard: ScriptedShard) -> None:
    loop = asyncio.get_running_loop()
    usage = Usage(service_name="gpt-4o", metadata={"team": "a"})

    waiting: list[asyncio.Future[None]] = []

    async def wait() -> None:
        """What any call is that waits: a task, a coroutine, a future."""
        waiting.append(loop.create_future())
        await waiting[-1]

    def answer() -> None:
        for future in waiting:
            future.set_result(None)

    def charge() -> Coroutine[Any, Any, Any]:
        return meter.charge("org", "u", 1, usage=usage)

    def reserve() -> Coroutine[Any, Any, Any]:
        return meter.reserve("org", "u", 1, usage=usage)

    await charge()  # A lane is connected, and waits for work.
    plain = await tracked(wait, then=answer)
    assert plain >= 3 * CALLS
    # The operation, and what waits in the queue.
    assert await tracked(charge) <= plain + 2 * CALLS + ONCE
    assert await tracked(reserve) <= plain + 2 * CALLS + ONCE

    def charges() -> Coroutine[Any, Any, Any]:
        return meter.charge_many([Charge("org", "u", 1, None, usage)] * CALLS)

    def reserves() -> Coroutine[Any, Any, Any]:
        return meter.reserve_many([Reserve("org", "u", 1, usage=usage)] * CALLS)

    # The same without a task, a coroutine and a future.
    assert await tracked(charges, 1) <= 2 * CALLS + ONCE
    assert await tracked(reserves, 1) <= 2 * CALLS + ONCE
