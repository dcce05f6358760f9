"""A small world for tests of the settler: organisations in Postgres, live accounts in Redis, and
charges between them.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from taximeter.meter.wire.keys import ShardKeys, account_field, shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import Relayed, relay
from taximeter.settler.proof.check import CheckLimits, Report, check
from taximeter.settler.settling.settle import Settled, settle_once
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.worker.jobs import Settler

BOUND_S = 60.0
HOLD_MS = 3_600_000
"""How long a hold lives: longer than a test on any machine."""

OPERATE = load_script("operate")
PAYLOAD = json.dumps(
    {"type": "llm_inference", "name": "gpt-4o", "meta": {"tokens_used": 7}}, separators=(",", ":")
)


async def eventually(condition: Callable[[], Awaitable[bool]], bound_s: float = BOUND_S) -> None:
    """Wait until `condition` answers true; fails when that takes longer than the bound."""
    # The servers cannot wake us, so there is nothing better to wait for than the next look.
    async with asyncio.timeout(bound_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


@dataclass
class World:
    """Both stores, opened and guarded."""

    stores: Stores
    shards: int = 1

    @property
    def pool(self) -> asyncpg.Pool:
        return self.stores.pool

    def keys(self, org_id: str = "acme") -> ShardKeys:
        return self.stores.keys(shard_of(org_id, self.shards))

    async def start(self, shards: int = 1) -> None:
        """Open every shard of a fresh system."""
        self.shards = await ensure_shards(self.stores, shards)
        for shard in range(self.shards):
            assert (await guard(self.stores, shard, self.shards)).usable

    async def organization(self, org_id: str = "acme", total: int = 10**9, **users: int) -> None:
        """An organisation with a pool, and an active allocation for each user."""
        await self.pool.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ($1, $1, $1, "
            "'test')",
            org_id,
        )
        await self.pool.execute(
            "INSERT INTO organization_credit_pools (org_id, total_credits) VALUES ($1, $2)",
            org_id,
            total,
        )
        for user_id, allocated in users.items():
            await self.pool.execute(
                "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
                " VALUES ($1, $2, $3)",
                org_id,
                user_id,
                allocated,
            )
        await self.relay()

    async def operate(self, org_id: str, *operations: Sequence[str | int]) -> list[str]:
        """Run (op, user, request, amount[, ttl_ms]) as one call; returns the replies as text."""
        keys = self.keys(org_id)
        epoch = (await self.stores.redis.hget(keys.meta, "epoch")).decode()
        args: list[str | int] = [epoch]
        for op, user_id, request_id, amount, *ttl in operations:
            ttl_ms = ttl[0] if ttl else HOLD_MS
            account = account_field(org_id, str(user_id))
            args += [op, account, f"{org_id}/{request_id}", amount, ttl_ms, "owner", PAYLOAD]
        *replies, _ = await OPERATE.call(self.stores.redis, keys.batch(), args)
        return [reply.decode() for reply in replies]

    async def charge(
        self, user_id: str, amount: int, request_id: str | None = None, org_id: str = "acme"
    ) -> str:
        """Charge and return the request id."""
        request_id = request_id or uuid.uuid4().hex
        (reply,) = await self.operate(org_id, ("charge", user_id, request_id, amount))
        assert reply.startswith("1 "), reply
        return request_id

    async def inject(
        self, *lines: bytes, shard: int = 0, skip: int = 0, fields: dict[bytes, bytes] | None = None
    ) -> int:
        """Append an entry as only a damaged or foreign writer would; returns its seq. `skip`
        numbers are left out.
        """
        keys = self.stores.keys(shard)
        redis = self.stores.redis
        epoch, seq = await redis.hmget(keys.meta, ["epoch", "seq"])
        last = int(seq) + skip + max(1, len(lines))
        content = fields or {b"t": b"1790000000000", b"v1": b"\n".join(lines)}
        await redis.xadd(keys.events, content, id=f"{int(epoch)}-{last}")
        await redis.hset(keys.meta, "seq", last)
        return last

    async def line(
        self, user_id: str, amount: int, request_id: str, org_id: str = "acme", flags: str = "-"
    ) -> bytes:
        """A well-formed line; the live balance is charged for it by hand, as the script would have
        done.
        """
        keys = self.keys(org_id)
        account = account_field(org_id, user_id)
        record = await self.stores.redis.hget(keys.accounts, account)
        if record is not None:
            available, held, applied = record.decode().split(" ")
            changed = f"{int(available) - amount} {held} {applied}"
            await self.stores.redis.hset(keys.accounts, account, changed)
        text = f"charge\t{account}\t{org_id}/{request_id}\t{amount}\t0\t{flags}\t{PAYLOAD}"
        return text.encode()

    async def settle(self, batch_events: int = 5_000) -> list[Settled]:
        """Settle every shard until nothing is left."""
        results = []
        for shard in range(self.shards):
            while True:
                result = await settle_once(self.stores, shard, batch_events=batch_events)
                if result.state == "idle":
                    break
                if result.state == "settled":
                    results.append(result)
                else:
                    await asyncio.sleep(0.01)
        return results

    async def overdue(self, request_id: str, org_id: str = "acme") -> None:
        """Move the deadline of a hold into the past, so that no test waits for a clock."""
        moved = {f"{org_id}/{request_id}": 1}
        await self.stores.redis.zadd(self.keys(org_id).deadlines, moved, xx=True)

    async def relay(self) -> Relayed:
        return await relay(self.stores)

    async def check(self, **limits: float) -> Report:
        return await check(self.stores, CheckLimits(**limits))  # type: ignore[arg-type]

    async def assert_books(self, but: str = "") -> None:
        """Everything is settled and relayed, and every invariant holds (except those named in
        `but`).
        """
        await self.settle()
        await self.relay()
        report = await self.check()
        wrong = {one.name: one.violations for one in report.invariants if not one.holds}
        unexpected = {name: found for name, found in wrong.items() if name not in but.split()}
        assert not unexpected, unexpected

    async def live(self, user_id: str, org_id: str = "acme") -> tuple[int, int, int] | None:
        """(available, held, applied) in Redis."""
        record = await self.stores.redis.hget(
            self.keys(org_id).accounts, account_field(org_id, user_id)
        )
        if record is None:
            return None
        available, held, applied = (int(part) for part in record.split(b" "))
        return available, held, applied

    async def used(self, user_id: str, org_id: str = "acme") -> int:
        """Sum of used over the user's allocations."""
        return int(
            await self.pool.fetchval(
                "SELECT coalesce(sum(used_credits), 0) FROM user_credit_allocations"
                " WHERE org_id = $1 AND user_id = $2",
                org_id,
                user_id,
            )
        )

    async def dead_letters(self) -> list[asyncpg.Record]:
        return list(await self.pool.fetch("SELECT * FROM taximeter.dead_letters ORDER BY seq, id"))

    async def mark(self, shard: int = 0) -> asyncpg.Record:
        row = await self.pool.fetchrow("SELECT * FROM taximeter.watermarks WHERE shard = $1", shard)
        assert row is not None
        return row


@asynccontextmanager
async def settling(world: World, *more: str) -> AsyncIterator[None]:
    """A settler that settles, relays and sweeps while the block runs, and does what else is named:
    methods of Settler.
    """
    settler = Settler(world.stores, SettlerSettings())
    await settler.start()

    async def work() -> None:
        while True:
            for piece in ("settle", "relay", "sweep", *more):
                await getattr(settler, piece)()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
