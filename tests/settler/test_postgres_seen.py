"""Many who note at once how far Postgres is take nobody for a Postgres that went back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from settler_world import World

from taximeter.meter.wire.scripts import Script
from taximeter.settler.books.postgres_position import step_and_note_position


async def test_many_who_note_it_at_once_find_nothing_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come to Redis in another order than they have read Postgres, as from many processes."""
    call = Script.call

    async def late_call(script: Script, *arguments: Any) -> Any:
        await asyncio.sleep(random.random() * 0.02)
        return await call(script, *arguments)

    monkeypatch.setattr(Script, "call", late_call)
    epoch = (await world.mark())["epoch"]
    await world.organization("acme", ann=1_000)

    async def move() -> None:
        for _ in range(20):
            # Its commit moves the log on, as that of a move does.
            await world.pool.execute("SELECT taximeter.append_entry('acme', 'ann', 1, 'repair')")
            await step_and_note_position(world.stores, 0, epoch)

    await asyncio.gather(*(move() for _ in range(20)))
