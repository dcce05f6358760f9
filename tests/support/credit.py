"""A server that can be away, and meters with a credit line on it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from support.shard import ScriptedShard
from support.waiting import eventually
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterSettings
from taximeter.meter.credit_line.desk import CreditLines
from taximeter.meter.wire.keys import ShardKeys

LINE = 100
QUICK = {"take_timeout_s": 1.0, "resolve_timeout_s": 1.0, "call_timeout_s": 1.0}
"""Soon at the desk when the server is away, and patient enough for one that is only slow."""


class Books:
    """A server that can be away, and meters on it that share nothing but a journal."""

    def __init__(self, server: EmbeddedValkey, journal: Path) -> None:
        self.server = server
        self.journal = journal
        self.redis = Redis.from_url(server.url)
        self.shard = ScriptedShard(self.redis, ShardKeys("tm", 0))

    async def meter(self, loader: Any = None, url: str = "", **lines: int) -> Meter:
        return await Meter.connect(
            url or self.server.url,
            loader=loader,
            settings=MeterSettings(**QUICK),  # type: ignore[arg-type]
            credit=CreditLines(lines or {"org": LINE}, self.journal),
        )

    async def back(self) -> None:
        """Start the server again, and let clients in as the guardian would."""
        self.server.start()
        run_id = (await self.redis.info("server"))["run_id"]
        await self.redis.hset(self.shard.keys.meta, "run_id", run_id)

    async def charged(self) -> dict[str, int]:
        """Amounts by request id, each once or the test fails."""
        events = await self.shard.events()
        ids = [event[3].partition("/")[2] for event in events]
        assert len(set(ids)) == len(ids), ids
        return {name: int(event[4]) for name, event in zip(ids, events, strict=True)}

    async def all_charged(self, *ids: str) -> None:
        async def there() -> bool:
            return set(await self.charged()) == set(ids)

        await eventually(there)


async def die(meter: Meter) -> None:
    """What SIGKILL leaves: tasks and connections gone, the lock free, nothing finished."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("meter-")]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await meter._places.aclose()
    assert meter._desk is not None
    journal = meter._desk._journal
    journal._file.close()
    os.close(journal._lock)
