"""A bank: everybody moves credits and spends them at once, and no cut ever shows one too many.

Nothing here charges more than it has held, so two things are true at every moment, besides the
books: no live balance is below zero, and no pool has promised more than it has.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from settler_moves import assert_history_adds_up, members, remove
from settler_world import World

from taximeter.meter import (
    AccountNotFound,
    InsufficientCredits,
    Meter,
)
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.moves import move
from taximeter.settler.moves.records import Request
from taximeter.settler.worker.jobs import Settler

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ORGS = ("acme", "other")
USERS = [f"user{n}" for n in range(6)]
TOTAL = 100_000
STEPS = 40


class Bank:
    """What the actors do; each counts what came of it."""

    def __init__(self, world: World, meter: Meter, seed: int) -> None:
        self.world = world
        self.meter = meter
        self.seed = seed
        self.done: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()

    def dice(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    async def spend(self, org_id: str, user_id: str) -> None:
        """Streams that overlap: each holds, spends at most that, and gives the rest back."""
        dice = self.dice(f"spend/{org_id}/{user_id}")
        running: list[Any] = []
        for _ in range(STEPS * 2):
            try:
                running.append(await self.meter.reserve(org_id, user_id, dice.randint(1, 900)))
            except (InsufficientCredits, AccountNotFound):
                self.done["reserve refused"] += 1
            while len(running) > 3 or (running and dice.random() < 0.5):
                hold = running.pop(dice.randrange(len(running)))
                if dice.random() < 0.2:
                    await hold.release()
                else:
                    amount = dice.randint(0, hold.amount)
                    await hold.commit(amount)
                    self.spent[org_id] += amount
                self.done["stream"] += 1
        for hold in running:
            await hold.commit(hold.amount)
            self.spent[org_id] += hold.amount

    async def administer(self, org_id: str, name: str) -> None:
        dice = self.dice(f"administer/{org_id}/{name}")
        work = {
            "transfer": self.transfer, "deallocate": self.deallocate,
            "allocate": self.allocate, "remove": self.remove, "expire": self.expire,
        }  # fmt: skip
        for _ in range(STEPS):
            kind = dice.choices(list(work), [6, 4, 6, 1, 1])[0]
            ended = await work[kind](org_id, dice)
            self.done[f"{kind} {ended}"] += 1

    async def transfer(self, org_id: str, dice: random.Random) -> str:
        source, target = dice.sample(USERS, 2)
        request = Request(
            org_id, "transfer", source, dice.randint(1, 2_000), "boss", to_user=target,
            key=f"{dice.random()}",
        )  # fmt: skip
        ends = await asyncio.gather(
            *(move(self.world.stores, request) for _ in range(dice.randint(1, 3)))
        )
        return ends[0].state

    async def deallocate(self, org_id: str, dice: random.Random) -> str:
        request = Request(
            org_id, "deallocation", dice.choice(USERS), dice.randint(1, 2_000), "boss"
        )
        return (await move(self.world.stores, request)).state

    async def allocate(self, org_id: str, dice: random.Random) -> str:
        pool = self.world.pool
        user_id, amount = dice.choice(USERS), dice.randint(1, 3_000)
        await pool.execute(
            "UPDATE organization_members SET status = 'active' WHERE org_id = $1 AND user_id = $2",
            org_id,
            user_id,
        )
        try:
            await pool.execute(
                "SELECT allocate_credits_to_user($1, $2, $3, 'boss')", org_id, user_id, amount
            )
        except asyncpg.CheckViolationError:
            return "refused"
        return "done"

    async def remove(self, org_id: str, dice: random.Random) -> str:
        await remove(self.world.stores, dice.choice(USERS), org_id)
        return "done"

    async def expire(self, org_id: str, dice: random.Random) -> str:
        """It expires, and the settler sees it at once."""
        async with self.world.pool.acquire() as conn, conn.transaction():
            await conn.execute(
                "UPDATE user_credit_allocations SET expires_at = now(), auto_renew = $3,"
                " created_at = now() - interval '1 day'"
                " WHERE org_id = $1 AND user_id = $2 AND is_active AND closing IS NULL",
                org_id,
                dice.choice(USERS),
                dice.random() < 0.5,
            )
            await conn.execute("SELECT taximeter.begin_expiry(now(), 100)")
        return "done"


@asynccontextmanager
async def settling(stores: Stores) -> AsyncIterator[Settler]:
    """A settler at work, as fast as it can."""
    settler = Settler(stores, SettlerSettings())
    await settler.start()

    async def work() -> None:
        while True:
            await asyncio.gather(
                settler.settle(), settler.relay(), settler.sweep(), settler.moves()
            )

    task = asyncio.create_task(work())
    try:
        yield settler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def look(world: World) -> None:
    """One cut of everything. `check` compares it with the books; the rest needs no books."""
    for shard in range(world.shards):
        records = await world.stores.redis.hgetall(world.stores.keys(shard).accounts)
        below = {name: record for name, record in records.items() if record.startswith(b"-")}
        assert below == {}, "credits that were promised twice"
    for row in await world.pool.fetch("SELECT * FROM organization_credit_pools"):
        assert row["total_credits"] == TOTAL
        assert row["available_credits"] >= 0, "the pool has promised what it does not have"
    report = await world.check()
    wrong = {one.name: one.violations for one in report.invariants if not one.holds}
    assert wrong == {}
    conservation = next(one for one in report.invariants if one.name == "I7")
    assert conservation.figures["bought"] == len(ORGS) * TOTAL


async def test_no_credit_is_ever_in_two_places(
    world: World, redis_url: str, key_prefix: str
) -> None:
    seed = int(os.environ.get("BANK_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"BANK_SEED={seed}")
    for org_id in ORGS:
        await world.organization(org_id, total=TOTAL, **dict.fromkeys(USERS, 3_000))
        await members(world, *USERS, org_id=org_id)
    meter = await Meter.connect(redis_url, loader=account_loader(world.pool), key_prefix=key_prefix)
    bank = Bank(world, meter, seed)
    actors: list[Coroutine[Any, Any, None]] = []
    for org_id in ORGS:
        actors += [bank.spend(org_id, user_id) for user_id in USERS]
        actors += [bank.administer(org_id, name) for name in ("boss", "deputy")]
    async with meter, settling(world.stores):
        everybody = asyncio.gather(*actors)
        cuts = 0
        while not everybody.done():
            await look(world)
            cuts += 1
        await everybody
    print(f"{cuts} cuts, {dict(bank.done)}")
    assert cuts >= 3
    for kind in ("transfer done", "transfer refused", "deallocate done", "allocate done", "stream"):
        assert bank.done[kind] > 0, kind
    # Everybody is gone: what is left of the closed returns, and the books add up to what was spent.
    # The settler may have been stopped in the middle of a move, which is undone at once then.
    settler = Settler(world.stores, SettlerSettings(move_grace_s=0.001))
    await world.assert_books()
    await settler.moves()
    await settler.moves()
    await look(world)
    closing = "SELECT count(*) FROM user_credit_allocations WHERE is_active AND closing IS NOT NULL"
    assert await world.pool.fetchval(closing) == 0
    for org_id in ORGS:
        used = await world.pool.fetchval(
            "SELECT used_credits FROM organization_credit_pools WHERE org_id = $1", org_id
        )
        assert used == bank.spent[org_id]
    assert await world.dead_letters() == []
    await assert_history_adds_up(world)
    await world.assert_books()
