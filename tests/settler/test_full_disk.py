"""A Redis whose disk is full: nothing that was answered is lost, and who brings it back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError
from settler_world import World, eventually

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.guardian import guard

SMALL = "size=3m"
CHARGES_MAX = 2_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(disk)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("SKIPPED: only root can mount a small disk, and not in every container")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_full_disk_loses_nothing_that_was_answered(
    pool: asyncpg.Pool, key_prefix: str, small_disk: Path, fsync: str
) -> None:
    """With `always` the server ends, and has to be started again when there is room; with
    `everysec` it refuses, and goes on by itself.
    """
    server = EmbeddedValkey(small_disk / "valkey", ("--appendfsync", fsync))
    server.start()
    answered = 0
    try:
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis, key_prefix))
            await world.start()
            await world.organization(ann=10**9)
            filler = small_disk / "filler"
            stat = os.statvfs(small_disk)
            filler.write_bytes(b"\0" * (stat.f_bavail * stat.f_frsize - 100_000))
            with suppress(RedisError):
                for _ in range(CHARGES_MAX):
                    await world.charge("ann", 1)
                    answered += 1
            assert 0 < answered < CHARGES_MAX, "the disk was never full"

            async def has_ended() -> bool:
                with suppress(RedisError):
                    await redis.execute_command("INFO", "server")
                    return False
                return not server.answers()

            if fsync == "always":
                await eventually(has_ended)
                filler.unlink()
                server.stop()
                server.start()
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis, key_prefix))
            filler.unlink(missing_ok=True)

            async def takes_charges() -> bool:
                with suppress(RedisError):
                    await guard(world.stores, 0, 1)
                    return bool(await world.charge("ann", 1))
                return False

            await eventually(takes_charges)
            await world.settle()
            # The one that met the full disk was refused, and may have been written for all that.
            assert answered + 1 <= await world.used("ann") <= answered + 2
            await world.assert_books()
    finally:
        server.kill()
