"""What a fault finds when it strikes: the cluster, dice, and ways to see whether it was felt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.cluster import Cluster
from chaos.history import Attempt, Follower, read_lines
from chaos.valkey import ChaosValkey
from taximeter.meter.places.routed import server_of
from taximeter.meter.wire.keys import ShardKeys

Key = tuple[str, str]
BOUND_S = 40.0
HANGS_S = 0.5
"""A call that has no answer for so long is felt by its caller."""
FELT_S = 20.0


@dataclass(frozen=True, slots=True)
class Loss:
    """A fault that is allowed to lose: what was acknowledged at or after `since` to a call that
    began before `until`, beyond what was in the ledger when it struck (`settled`, millicredits).

    `of`: "redis" for charges, "postgres" for what was administered; "start" for nothing but what
    open holds had reported before the server was started anew. `orgs`: only theirs, if given.
    """

    of: str
    since: float
    until: float
    settled: Mapping[Key, int] = field(default_factory=dict)
    orgs: frozenset[str] | None = None


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

    def __post_init__(self) -> None:
        self._follower = Follower(self.cluster.all_histories)

    def attempts(self) -> list[Attempt]:
        return self._follower.look()

    def troubled(self, since: float, *codes: str) -> int:
        """Attempts that began since then and were neither ok nor refused; only those with `codes`,
        if given. One without an answer counts as soon as it is half a second old. One from before
        does not count: another fault may have troubled it.
        """
        late = time.time() - HANGS_S
        return sum(
            attempt.outcome in ("failed", "unknown")
            and attempt.at >= since
            and (attempt.answered or attempt.at < late)
            and (attempt.code in codes if codes else True)
            for attempt in self.attempts()
        )

    def administered(self, since: float) -> int:
        """The same of calls of the admin API."""
        late = time.time() - HANGS_S
        began: dict[str, float] = {}
        troubled = 0
        for line in read_lines(self.cluster.folder / "admin.jsonl"):
            if line["at"] < since:
                continue
            if line["what"] == "invoke":
                began[line["attempt"]] = line["at"]
            elif began.pop(line["attempt"], None) is not None:
                troubled += line["outcome"] in ("failed", "unknown")
        return troubled + sum(at < late for at in began.values())

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

    async def epochs(self, shards: Sequence[int] | None = None) -> int:
        """Sum of the epochs of these shards, or of all."""
        conn = await self.cluster.database()
        try:
            return int(
                await conn.fetchval(
                    "SELECT sum(epoch) FROM taximeter.watermarks"
                    " WHERE $1::int[] IS NULL OR shard = ANY($1)",
                    shards,
                )
            )
        finally:
            await conn.close()

    async def settled_numbers(self) -> dict[int, int]:
        """The number of each shard's last event that is settled."""
        conn = await self.cluster.database()
        try:
            rows = await conn.fetch("SELECT shard, seq FROM taximeter.watermarks")
        finally:
            await conn.close()
        return {row["shard"]: row["seq"] for row in rows}

    async def numbers(self, server: ChaosValkey | None = None) -> dict[int, int]:
        """The last number that each shard has given, on the server that runs or another one."""
        async with self.cluster.redis(server) as redis:
            return {
                shard: int(await redis.hget(ShardKeys("tm", shard).meta, "seq") or 0)
                for shard in range(self.cluster.run.shards)
            }

    async def rebuilt(self, epochs: int, shards: Sequence[int] | None = None) -> bool:
        """Wait until one of the shards is at an epoch beyond these, and all are open; whether one
        is.
        """

        async def is_rebuilt() -> bool:
            return await self.epochs(shards) > epochs

        rebuilt = await self.comes(is_rebuilt, BOUND_S)
        await self.usable()
        return rebuilt

    async def usable(self) -> None:
        """Return when every shard is open on the server that runs, at the epoch of Postgres."""

        async def is_usable() -> bool:
            conn = await self.cluster.database()
            try:
                rows = await conn.fetch("SELECT shard, epoch, run_id FROM taximeter.watermarks")
            finally:
                await conn.close()
            async with self.cluster.redis() as redis:
                for row in rows:
                    meta = ShardKeys("tm", row["shard"]).meta
                    run_id = (await (await server_of(redis, meta)).info("server"))["run_id"]
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

    async def felt(self, since: float, *codes: str, within_s: float = FELT_S) -> bool:
        """Wait until some caller had trouble; whether one had. To be asked while the fault lasts,
        so that it lasts until it is felt.
        """

        async def is_felt() -> bool:
            return self.troubled(since, *codes) > 0

        return await self.comes(is_felt, within_s)

    async def served(
        self,
        since: float,
        within_s: float = BOUND_S,
        of: Callable[[str], bool] = lambda org_id: True,
    ) -> bool:
        """Wait until a call that began after `since` was acknowledged, for an organisation that
        `of` is true of.
        """

        async def is_served() -> bool:
            return any(
                one.outcome == "ok" and one.at >= since and of(one.org_id)
                for one in self.attempts()
            )

        return await self.comes(is_served, within_s)
