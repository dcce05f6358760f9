"""Looks at both stores all the time: what only grows must only grow (I10), what is bounded stays so
(I12).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from chaos.cluster import Cluster
from chaos.history import Attempt, Follower
from taximeter.meter.wire.keys import ShardKeys

PAUSE_S: Final = 0.25
STREAM_MAX: Final = 600_000
Place = tuple[int, int]


class Watcher:
    """`violations` in words. A store that is away is not judged, nor is one while a fault that may
    take it back strikes.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.violations: list[str] = []
        self.stopping = False
        self.looks = 0
        self.stream_max = 0
        self.memory_max = 0
        self._postgres: dict[int, Place] = {}
        self._redis: dict[int, Place] = {}
        self._applied: dict[str, tuple[int, int]] = {}
        self._free = asyncio.Lock()
        self._follower = Follower(cluster.all_histories)
        self._accused: set[tuple[str, str]] = set()

    async def run(self) -> None:
        while not self.stopping:
            async with self._free:
                # Redis first: it is never behind Postgres then.
                looks = (self._look_at_redis, self._look_at_holds, self._look_at_postgres)
                for look in looks:
                    # A store that is away says so in many ways, and is looked at again.
                    with contextlib.suppress(Exception):
                        await look()
                        self.looks += 1
            await asyncio.sleep(PAUSE_S)

    @asynccontextmanager
    async def excused(self) -> AsyncIterator[None]:
        """Do not look inside, and forget what was seen before."""
        async with self._free:
            yield
            for seen in (self._postgres, self._redis, self._applied):
                seen.clear()

    async def _look_at_redis(self) -> None:
        async with asyncio.timeout(3), self._cluster.redis() as redis:
            self.memory_max = max(self.memory_max, (await redis.info("memory"))["used_memory"])
            for shard in range(self._cluster.run.shards):
                name = f"{{tm:{shard}}}:"
                async with redis.pipeline(transaction=True) as pipe:
                    pipe.hmget(name + "meta", ["epoch", "seq"])
                    pipe.hgetall(name + "accounts")
                    pipe.xlen(name + "events")
                    (epoch, seq), accounts, length = await pipe.execute()
                self.stream_max = max(self.stream_max, length)
                if length > STREAM_MAX:
                    self.violations.append(f"I12 shard {shard}: {length} entries in the stream")
                if epoch is None or not epoch.isdigit():
                    continue
                self._grows("Redis", self._redis, shard, (int(epoch), int(seq)))
                for account, record in accounts.items():
                    applied = int(record.rsplit(b" ", 1)[1])
                    before = self._applied.get(account, (0, 0))
                    if before[0] == int(epoch) and applied < before[1]:
                        self.violations.append(
                            f"I10 {account.decode()}: applied went from {before[1]} to {applied}"
                        )
                    self._applied[account] = (int(epoch), applied)

    async def _look_at_holds(self) -> None:
        """Who was told that no hold was taken has none: its credits would be gone until it ends."""
        looked_at, found = time.time(), set()
        async with asyncio.timeout(3), self._cluster.redis() as redis:
            for shard in range(self._cluster.run.shards):
                keys = await redis.hkeys(ShardKeys("tm", shard).holds)
                found |= {tuple(key.decode().split("/", 1)) for key in keys}
        asked: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self._follower.look():
            if attempt.op == "reserve" and attempt.key in found:
                asked.setdefault(attempt.key, []).append(attempt)
        self.violations += left_by_refusals(asked, looked_at, self._accused)

    async def _look_at_postgres(self) -> None:
        async with asyncio.timeout(3):
            conn = await self._cluster.database()
            try:
                rows = await conn.fetch("SELECT shard, epoch, seq FROM taximeter.watermarks")
            finally:
                await conn.close()
        for row in rows:
            self._grows("Postgres", self._postgres, row["shard"], (row["epoch"], row["seq"]))

    def _grows(self, store: str, seen: dict[int, Place], shard: int, place: Place) -> None:
        before = seen.get(shard, (0, 0))
        if place < before:
            self.violations.append(f"I10 {store} shard {shard}: from {before} to {place}")
        seen[shard] = place


def left_by_refusals(
    asked: Mapping[tuple[str, str], Sequence[Attempt]],
    looked_at: float,
    accused: set[tuple[str, str]],
) -> list[str]:
    """`asked`: the reserves of holds that were open at `looked_at`. What is wrong, each once.
    Who is told REPLAYED is told that there was a hold.
    """
    wrong = []
    for key, attempts in asked.items():
        told = [one for one in attempts if one.answered_at < looked_at]
        nothing = len(told) == len(attempts) and all(
            one.outcome in ("refused", "failed") and one.code != "REPLAYED" for one in told
        )
        if nothing and key not in accused:
            accused.add(key)
            codes = ", ".join(one.code for one in told)
            wrong.append(f"I14 {key[0]} {key[1]}: told {codes}, and its hold is open")
    return wrong
