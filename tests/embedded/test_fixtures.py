"""The test suite itself: a clean state for every test, on embedded or on named servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis import Redis
from support.servers import ValkeyFactory

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("attempt", [1, 2])
async def test_every_test_has_a_state_of_its_own(
    redis: redis_asyncio.Redis, pool: asyncpg.Pool[asyncpg.Record], attempt: int
) -> None:
    assert await redis.get("left behind") is None
    await redis.set("left behind", attempt)
    assert await pool.fetchval("SELECT to_regclass('left_behind')") is None
    await pool.execute("CREATE TABLE left_behind ()")


def test_settings_of_the_caller_do_not_reach_the_tests() -> None:
    names = {name for name in os.environ if name.startswith("TAXIMETER_")}
    assert names == {"TAXIMETER_PRICE_AGE_MAX_DAYS"}, "which conftest.py sets by itself"


def test_a_server_that_is_named_is_used(
    valkey_server: ValkeyFactory, session_database_url: str
) -> None:
    """The suite must run on Debian's Redis too, and empties only the database it was given."""
    server = valkey_server()
    client = Redis.from_url(server.url)
    other = Redis.from_url(server.url.removesuffix("/0") + "/1")
    client.set("before", 1)
    other.set("before", 1)
    environment = {
        **os.environ,
        "TAXIMETER_REDIS_URL": server.url,
        "TAXIMETER_DATABASE_URL": session_database_url,
    }
    name = test_every_test_has_a_state_of_its_own.__name__
    chosen = f"{Path(__file__).relative_to(ROOT)}::{name}"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert client.keys() == [b"left behind"]
    assert other.keys() == [b"before"]
    client.close()
    other.close()
