"""A server whose data goes on differently from what Postgres has settled is never trusted, though
its epoch and its numbers fit: the run id in its data names whom Postgres has let in last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World, eventually

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.settler.guardian import guard, look
from taximeter.settler.stores import Stores
from taximeter.settler.verdict import Action, Mark, Seen, judge

Server = Any
ALLOCATED = 10_000


@pytest.mark.parametrize(
    ("server", "data", "approved", "action"),
    [
        ("a", "a", "a", Action.NOTHING),
        ("b", "a", "a", Action.APPROVE),  # Restarted, or a replica that follows the approved one.
        ("b", "a", "b", Action.APPROVE),  # A guardian died between Postgres and Redis.
        ("b", "a", "c", Action.REBUILD),  # A replica of a life before the approved one.
        ("a", "a", "c", Action.REBUILD),  # An old primary that comes back after a failover.
        ("b", "", "a", Action.REBUILD),
    ],
)
def test_data_continues_what_was_approved_or_is_not_trusted(
    server: str, data: str, approved: str, action: Action
) -> None:
    meta = {"epoch": "3", "seq": "10", "shards": "1", "format": "1", "run_id": data}
    assert judge(Mark(0, 3, 8, approved), Seen(server, meta, (3, 10)), 1).action is action


class Pair:
    """A primary and its replica, each with a world on the same Postgres."""

    def __init__(self, servers: list[Server], worlds: list[World]) -> None:
        self.servers, self.worlds = servers, worlds

    async def in_step(self) -> None:
        primary, replica = (world.stores.redis for world in self.worlds)

        async def is_in_step() -> bool:
            ours, theirs = await primary.info("replication"), await replica.info("replication")
            return bool(
                theirs["master_link_status"] == "up"
                and theirs["master_replid"] == ours["master_replid"]
                and theirs["slave_repl_offset"] == ours["master_repl_offset"]
            )

        await eventually(is_in_step)

    async def split(self) -> None:
        """From now on each goes its own way."""
        await self.in_step()
        await self.worlds[1].stores.redis.execute_command("REPLICAOF", "NO", "ONE")


@pytest.fixture
async def pair(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Server]
) -> AsyncIterator[Pair]:
    servers = [valkey_server("--repl-diskless-sync-delay", "0") for _ in range(2)]
    async with AsyncExitStack() as stack:
        worlds = []
        for server in servers:
            redis = await stack.enter_async_context(redis_asyncio.Redis.from_url(server.url))
            worlds.append(World(Stores(pool, redis, key_prefix)))
        await worlds[0].start()
        await worlds[0].organization("acme", ann=ALLOCATED)
        await worlds[1].stores.redis.execute_command("REPLICAOF", LOOPBACK, str(servers[0].port))
        yield Pair(servers, worlds)


async def test_a_stale_replica_with_a_longer_history_is_rebuilt(pair: Pair) -> None:
    """The primary came back without its last writes, was approved, and went on. Then the replica
    that still has those writes is promoted: its numbers fit, and its balance lacks what is settled.
    """
    primary, replica = pair.worlds
    redis, keys = primary.stores.redis, primary.keys()
    await primary.charge("ann", 100)
    kept = {key: await redis.dump(key) for key in keys.batch()}
    for number in range(9):
        await primary.charge("ann", 10, f"lost-{number}")
    await pair.split()
    await redis.delete(*kept)
    for key, value in kept.items():
        if value is not None:
            await redis.restore(key, 0, value)
    pair.servers[0].stop()
    pair.servers[0].start()
    assert (await guard(primary.stores, 0, 1)).action == "approved"
    for _ in range(3):
        await primary.charge("ann", 1_000)
    await primary.settle()

    seen = await look(replica.stores, 0)
    assert (seen.epoch, seen.seq, seen.last_id) == (1, 10, (1, 10)), "it looks whole"
    guarded = await guard(replica.stores, 0, 1)
    assert (guarded.action, guarded.epoch) == ("rebuilt", 2)
    assert "goes back to a server" in guarded.reason
    # What was settled is not spent again; what only the replica had, and fits behind it, is booked.
    assert await replica.used("ann") == 100 + 3_000 + 6 * 10
    await replica.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )
    await replica.relay()
    assert await replica.live("ann") is not None
    await replica.assert_books()
    assert (await guard(replica.stores, 0, 1)).action == "nothing"


async def test_an_old_primary_that_comes_back_after_a_failover_is_rebuilt(pair: Pair) -> None:
    """It never stopped, so its own data approves it; Postgres has approved the other one since."""
    old, new = pair.worlds
    await old.charge("ann", 100)
    await pair.split()
    assert (await guard(new.stores, 0, 1)).action == "approved"
    await new.charge("ann", 1_000)
    await new.settle()
    for _ in range(4):
        await old.charge("ann", 10)
    seen = await look(old.stores, 0)
    assert seen.meta["run_id"] == seen.run_id, "its data says that it is approved"
    guarded = await guard(old.stores, 0, 1)
    assert (guarded.action, guarded.epoch) == ("rebuilt", 2)
    assert await old.used("ann") == 100 + 1_000 + 3 * 10
    await old.assert_books()
