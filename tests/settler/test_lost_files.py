"""What is left on disks: a file that is corrupt, a disk that is full, an old backup alone, and two
servers that both believe to be the one.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import ResponseError
from settler_world import World, eventually
from support.aof import command_ends, incremental_file
from support.servers import run_sql, with_database
from support.waiting import answered

from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterSettings, StoreUnavailable
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_pool
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.shards.guardian import guard

UNLIMITED = resource.RLIM_INFINITY


class SmallDisk(EmbeddedValkey):
    """Its files may not grow beyond half a megabyte, which a write finds out as on a full disk."""

    def command(self) -> list[str]:
        script = "trap '' XFSZ; ulimit -S -f 1024; exec \"$@\""
        return ["/bin/sh", "-c", script, "sh", *super().command()]


async def test_a_file_that_is_corrupt_in_the_middle_is_not_started_on(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Redis refuses; with the file set aside, everything that was settled comes from Postgres."""
    server = EmbeddedValkey(tmp_path / "valkey", ("--appendfsync", "always"))
    with server:
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis))
            await world.start()
            await world.organization("acme", ann=10_000)
            for _ in range(5):
                await world.charge("ann", 100)
            await world.settle()
            await world.charge("ann", 7)
        server.kill()
        log = incremental_file(server.data_dir)
        data = bytearray(log.read_bytes())
        ends = command_ends(bytes(data))
        data[ends[len(ends) // 2]] = ord("?")
        log.write_bytes(data)
        with pytest.raises(ServerFailed, match=r"(?i)bad file format"):
            server.start()
        (server.data_dir / "appendonlydir").rename(tmp_path / "set-aside")
        server.start()
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis))
            assert (await guard(world.stores, 0, 1)).action == "rebuilt"
            await world.assert_books()
            assert await world.used("ann") == 500


async def test_a_full_disk_refuses_writes_whole_and_recovers(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    with SmallDisk(tmp_path / "valkey") as server:
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis))
            await world.start()
            await world.organization("acme", ann=10**9)
            charged = 0

            async def charge_until_refused() -> None:
                nonlocal charged
                while charged < 100_000:
                    await world.charge("ann", 1)
                    charged += 1

            settings = MeterSettings(take_timeout_s=0.5)
            async with await answered(
                lambda: Meter.connect(server.url, settings=settings)
            ) as meter:
                with pytest.raises(ResponseError, match="MISCONF"):
                    await charge_until_refused()
                with pytest.raises(StoreUnavailable):
                    await meter.charge("acme", "ann", 1)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))

            async def takes_writes() -> bool:
                try:
                    await world.charge("ann", 1)
                except ResponseError:
                    return False
                return True

            await eventually(takes_writes)
            await world.assert_books()
            assert await world.used("ann") == charged + 1


@pytest.mark.own_database
async def test_an_old_backup_of_postgres_is_all_there_is(
    database_url: str, valkey_server: Callable[..., Any]
) -> None:
    """Everything since the backup is lost, and everything else is right."""
    backup = f"{database_url.rsplit('/', 1)[1].partition('?')[0]}_backup"
    server = valkey_server()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
            world = World(Stores(pool, redis))
            await world.start()
            await world.organization("acme", ann=10_000)
            await world.charge("ann", 100)
            await world.settle()
        source = database_url.rsplit("/", 1)[1].partition("?")[0]
        run_sql(database_url, f'CREATE DATABASE "{backup}" TEMPLATE "{source}"')
        async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
            world = World(Stores(pool, redis))
            await world.charge("ann", 1_000)
            await world.settle()
        await redis.flushall()
        try:
            url = with_database(database_url, backup)
            async with asyncpg.create_pool(url, min_size=1, max_size=3) as pool:
                world = World(Stores(pool, redis))
                assert (await guard(world.stores, 0, 1)).action == "rebuilt"
                await pool.execute(
                    "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
                )
                await world.assert_books()
                assert (await world.live("ann") or ())[:2] == (10_000 - 100 + 1, 0)
        finally:
            run_sql(database_url, f'DROP DATABASE "{backup}" WITH (FORCE)')


async def test_the_old_primary_of_a_split_stops_taking_credit(
    pool: asyncpg.Pool, valkey_server: Callable[..., Any]
) -> None:
    """With min-replicas-to-write, the side without replicas refuses; nothing of its is booked."""
    old = valkey_server("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    new = valkey_server("--repl-diskless-sync-delay", "0")
    async with (
        redis_asyncio.Redis.from_url(old.url) as old_redis,
        redis_asyncio.Redis.from_url(new.url) as new_redis,
    ):
        world = World(Stores(pool, old_redis))
        await world.start()
        await world.organization("acme", ann=10_000)
        await new_redis.execute_command("REPLICAOF", "127.0.0.1", str(old.port))

        settings = MeterSettings(take_timeout_s=0.5)
        async with await answered(lambda: Meter.connect(old.url, settings=settings)) as left_behind:
            await answered(lambda: left_behind.charge("acme", "ann", 100, request_id="before"))

            async def follows() -> bool:
                return bool(await new_redis.exists(world.keys().events))

            await eventually(follows)
            await old_redis.config_set("min-replicas-max-lag", "2")
            await old_redis.config_set("min-replicas-to-write", "1")
            await new_redis.execute_command("REPLICAOF", "NO", "ONE")
            promoted = World(Stores(pool, new_redis))
            assert (await guard(promoted.stores, 0, 1)).usable

            async def refuses() -> bool:
                try:
                    await left_behind.charge("acme", "ann", 1)
                except StoreUnavailable:
                    return True
                return False

            await eventually(refuses)
            async with await Meter.connect(new.url) as meter:
                await meter.charge("acme", "ann", 10, request_id="after")
            await promoted.assert_books()
            assert await promoted.used("ann") == 110


async def test_a_worker_that_freezes_in_a_transaction_does_not_keep_its_shard(
    world: World, database_url: str
) -> None:
    """Its session is ended by Postgres, and what it had begun never happened."""

    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    frozen = await open_pool(SettlerSettings(database_url=database_url), frozen_s=0.5)
    conn = await frozen.acquire()
    try:
        await conn.execute("BEGIN")
        await conn.execute("SELECT 1 FROM taximeter.watermarks FOR UPDATE")
        assert (await settle_once(world.stores, 0)).state == "busy"

        async def settles() -> bool:
            return (await settle_once(world.stores, 0)).state == "settled"

        await eventually(settles)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await conn.execute("COMMIT")
    finally:
        frozen.terminate()
    await world.assert_books()
