"""A Postgres that was put back to an older copy and went on is found out before anything of it
reaches a live balance, whatever it has written since; and what has reached one is on its disk,
whatever it waits for by default.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World
from support.postgres_once import PostgresOnce

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.settler.books.postgres_position import Ledger
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_pool
from taximeter.settler.shards.guardian import guard, view_shard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class OwnPostgres:
    """A Postgres whose files may be copied and put back, and a world on it."""

    def __init__(
        self, server: EmbeddedPostgres, redis: redis_asyncio.Redis, prefix: str, copy: Path
    ) -> None:
        self.server, self._redis, self._prefix, self._copy = server, redis, prefix, copy

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        pool = await open_pool(StoreSettings(database_url=self.server.url))
        try:
            yield World(Stores(pool, self._redis, self._prefix))
        finally:
            pool.terminate()

    def keep_copy(self) -> None:
        self.server.stop()
        subprocess.run(["cp", "-a", str(self.server.cluster), str(self._copy)], check=True)
        self.server.start()

    def put_back(self) -> None:
        self.server.stop()
        subprocess.run(["rm", "-rf", str(self.server.cluster)], check=True)
        subprocess.run(["cp", "-a", str(self._copy), str(self.server.cluster)], check=True)
        self.server.start()

    def crash(self) -> None:
        """As if its machine lost power: what is in memory only is gone."""
        self.server.kill()
        self.server.start()


@pytest.fixture
async def own(
    tmp_path: Path,
    migrated_postgres: PostgresOnce,
    redis: redis_asyncio.Redis,
    key_prefix: str,
) -> AsyncIterator[OwnPostgres]:
    with migrated_postgres(
        tmp_path / "postgres", ("-c", f"wal_writer_delay={10_000}", "-c", "bgwriter_delay=10000")
    ) as server:
        yield OwnPostgres(server, redis, key_prefix, tmp_path / "copy")


async def test_a_copy_that_has_written_more_than_was_lost_is_found_out(own: OwnPostgres) -> None:
    """An idle shard: nothing was charged since, and only relayed entries tell the copies apart."""
    async with own.world() as world:
        await world.start()
        await world.organization("acme", ann=1_000)
        assert (await guard(world.stores, 0, 1)).action == "nothing"
    own.keep_copy()
    async with own.world() as world:
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 30000")
        await world.relay()
        assert (await guard(world.stores, 0, 1)).action == "nothing"
        seen = (await view_shard(world.stores, 0)).ledger
        assert seen is not None
    own.put_back()
    async with own.world() as world:
        # It writes, under the same timeline, until it is further than it ever was, and gives the
        # number that the live account has as its last one again, for other credits.
        await world.pool.execute(
            "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))"
            " FROM generate_series(1, 5)"
        )
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 2000")
        now = await world.pool.fetchval("SELECT position FROM taximeter.ledger_position()")
        assert now > seen.position
        done = await world.relay()
        assert (done.applied, list(done.closed_shards)) == (0, [0]), "a relay finds it out as well"
        guarded = await guard(world.stores, 0, 1)
        assert guarded.action == "rebuilt"
        assert "Postgres went back" in guarded.reason
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 2001")
        await world.relay()
        assert (await world.live("ann") or ())[0] == 2_001
        await world.assert_books()
        assert (await guard(world.stores, 0, 1)).action == "nothing"


async def test_a_copy_that_has_settled_since_is_found_out(own: OwnPostgres) -> None:
    """Who reads usage settles too, without a guardian: that must not hide the copy from one."""
    async with own.world() as world:
        await world.start()
        await world.organization("acme", ann=10_000)
        await world.charge("ann", 10)
        await world.settle()
    own.keep_copy()
    async with own.world() as world:
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 30000")
        await world.relay()
        await world.charge("ann", 20)
        await world.settle()
        assert (await guard(world.stores, 0, 1)).action == "nothing"
    own.put_back()
    async with own.world() as world:
        await world.charge("ann", 40)
        await world.pool.execute(
            "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))"
            " FROM generate_series(1, 5)"
        )
        await world.settle()
        assert await world.used("ann") == 70, "the stream still has what the copy lacks"
        assert (await guard(world.stores, 0, 1)).action == "rebuilt"
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 2001")
        await world.relay()
        assert (await world.live("ann") or ())[0] == 2_001 - 70
        await world.assert_books()


@pytest.mark.parametrize("how", ["server", "database", "role"])
async def test_what_reached_a_live_balance_is_on_the_disk_of_postgres(
    own: OwnPostgres, how: str
) -> None:
    """With synchronous_commit off, however it was set, a commit is answered and still lost. Ours
    wait; what somebody else has committed without waiting is on the disk before it is relayed.
    """
    off = {
        "server": "ALTER SYSTEM SET synchronous_commit = off",
        "database": "ALTER DATABASE taximeter SET synchronous_commit = off",
        "role": "ALTER ROLE postgres SET synchronous_commit = off",
    }[how]
    conn = await asyncpg.connect(own.server.url)
    await conn.execute(off)
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()
    async with own.world() as world:
        await world.start()
        await world.organization("acme", ann=1_000)
        somebody = await asyncpg.connect(own.server.url)
        assert await somebody.fetchval("SHOW synchronous_commit") == "off"
        # Every way in which we write: settling, allocating, and relaying what others wrote.
        await world.charge("ann", 10)
        await world.settle()
        await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 500, 'root')")
        await somebody.execute("SELECT allocate_credits_to_user('acme', 'ann', 7, 'psql')")
        await world.relay()
        live = await world.live("ann")
        assert live is not None
        assert live[0] == 1_000 - 10 + 500 + 7
        somebody.terminate()
    own.crash()
    async with own.world() as world:
        assert await world.used("ann") == 10
        assert (
            await world.pool.fetchval("SELECT sum(allocated_credits) FROM user_credit_allocations")
            == 1_507
        )
        await world.assert_books()


def test_a_ledger_reads_what_it_writes() -> None:
    ledger = Ledger("a/1", 5, 3, 9, (77, 66, 55))
    assert Ledger.parse(str(ledger)) == replace(ledger, tokens=(77,))
    assert Ledger.parse("a/1 5 3") == Ledger("a/1", 5, 3)
    assert str(Ledger("a/1", 5, 3)) == "a/1 5 3"
    for damaged in ("", "a/1", "a/1 5", "a/1 5 3 9", "a/1 5 3 9 x", "a/1 5 3 9 77 1"):
        assert Ledger.parse(damaged) is None


def test_a_history_has_made_the_step_that_is_remembered() -> None:
    now = Ledger("a/1", 5, 3, 9, (77, 66, 55))
    for step, token, same in (
        (9, 77, True),
        (8, 66, True),
        (7, 55, True),
        (6, 1, True),  # Nobody knows any more.
        (9, 66, False),
        (8, 1, False),
        (10, 77, False),
    ):
        assert now.continues(Ledger("a/1", 5, 3, step, (token,))) is same, (step, token)
    assert now.continues(Ledger("a/1", 5, 3))
    assert not Ledger("a/1", 5, 3).continues(now), "a Postgres without steps is an older one"


async def test_many_relays_and_settles_at_once_make_one_history(world: World) -> None:
    await world.organization("acme", ann=10**6)

    async def relay() -> None:
        await world.pool.execute("SELECT taximeter.append_entry('acme', 'ann', 1, 'repair')")
        assert (await world.relay()).closed_shards == {}

    async def settle() -> None:
        await world.charge("ann", 1)
        await world.settle()
        assert (await guard(world.stores, 0, 1)).action == "nothing"

    for _ in range(10):
        await asyncio.gather(*(relay() for _ in range(4)), *(settle() for _ in range(4)))
    row = await world.pool.fetchrow("SELECT step, tokens FROM taximeter.ledger_steps")
    assert row is not None
    assert row["step"] >= 20
    assert len(row["tokens"]) == min(128, row["step"])
