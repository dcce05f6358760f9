"""What a fault finds when it strikes: the cluster, dice, and ways to see whether it was felt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.cluster import Cluster
from chaos.history import Attempt, read_attempts
from taximeter.meter.keys import ShardKeys

Key = tuple[str, str]
BOUND_S = 40.0


@dataclass(frozen=True, slots=True)
class Loss:
    """A fault that is allowed to lose: what was acknowledged at or after `since` to a call that
    began before `until`, beyond what was in the ledger when it struck (`settled`, millicredits).

    `of`: "redis" for charges, "postgres" for what was administered.
    """

    of: str
    since: float
    until: float
    settled: Mapping[Key, int] = field(default_factory=dict)


@dataclass(slots=True)
class Struck:
    """One fault of a run, as it came to pass. bit: it was felt, by its own measure."""

    fault: str
    began: float
    ended: float
    bit: bool
    detail: dict[str, Any] = field(default_factory=dict)
    loss: Loss | None = None


@dataclass
class Scene:
    """`random` is drawn from by faults alone, so that the same seed gives the same faults."""

    cluster: Cluster
    random: random.Random

    def attempts(self) -> list[Attempt]:
        return read_attempts(self.cluster.histories)

    def troubled(self, since: float, *codes: str) -> int:
        """Attempts since then that were neither ok nor refused; only those with `codes`, if given.
        An attempt without an answer counts as soon as it is half a second old.
        """
        now = time.time()
        return sum(
            attempt.outcome in ("failed", "unknown")
            and attempt.at >= since - 3.0
            and (attempt.code in codes if codes else True)
            and (since <= attempt.answered_at < float("inf") or since <= now - 0.5 > attempt.at)
            for attempt in self.attempts()
        )

    async def settled(self) -> dict[Key, int]:
        """What is in the ledger now, millicredits by request."""
        conn = await self.cluster.database()
        try:
            rows = await conn.fetch(
                "SELECT org_id, request_id, sum(amount)::bigint FROM taximeter.charged_requests"
                " GROUP BY 1, 2"
            )
        finally:
            await conn.close()
        return {(row[0], row[1]): row[2] for row in rows}

    async def epochs(self) -> int:
        """Sum of the epochs of all shards."""
        conn = await self.cluster.database()
        try:
            return int(await conn.fetchval("SELECT sum(epoch) FROM taximeter.watermarks"))
        finally:
            await conn.close()

    async def usable(self) -> None:
        """Return when every shard is open on the server that runs, at the epoch of Postgres."""

        async def is_usable() -> bool:
            conn = await self.cluster.database()
            try:
                rows = await conn.fetch("SELECT shard, epoch, run_id FROM taximeter.watermarks")
            finally:
                await conn.close()
            async with self.cluster.redis() as redis:
                run_id = (await redis.info("server"))["run_id"]
                for row in rows:
                    meta = ShardKeys("tm", row["shard"]).meta
                    epoch, approved = await redis.hmget(meta, ["epoch", "run_id"])
                    if epoch != str(row["epoch"]).encode() or approved != run_id.encode():
                        return False
                    if row["run_id"] != run_id:
                        return False
            return True

        await self.until(is_usable, "the shards to be open again")

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, within_s: float = BOUND_S
    ) -> None:
        """Wait for a condition; an error counts as no. Raises TimeoutError."""
        if not await self.comes(condition, within_s):
            raise TimeoutError(f"waited {within_s:.0f} s for {what}")

    async def comes(self, condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
        """Wait for a condition; whether it came true."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                if await condition():
                    return True
            except Exception:
                # A store may be away in many ways; then it has not come true.
                pass
            await asyncio.sleep(0.1)
        return False

    async def felt(self, since: float, *codes: str, within_s: float = 6.0) -> bool:
        """Wait until some caller had trouble; whether one had."""

        async def is_felt() -> bool:
            return self.troubled(since, *codes) > 0

        return await self.comes(is_felt, within_s)

    async def served(self, since: float, within_s: float = BOUND_S) -> bool:
        """Wait until a charge that began after `since` was acknowledged."""

        async def is_served() -> bool:
            return any(one.outcome == "ok" and one.at >= since for one in self.attempts())

        return await self.comes(is_served, within_s)
