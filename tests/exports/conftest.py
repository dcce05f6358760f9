"""Two organisations with usage, entries and purchases in three days of the past, and a folder."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from exported_days import Days, today
from settler_world import World
from support.s3 import bucket as bucket
from support.s3 import endpoint as endpoint

from taximeter.settler.archive.places import open_place
from taximeter.settler.books.stores import Stores
from taximeter.settler.exports import days as days_module


@pytest.fixture
async def days(
    pool: asyncpg.Pool[asyncpg.Record],
    redis: object,
    key_prefix: str,
    settler_database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Days:
    """Both stores, and the variables by which processes find them."""
    world = World(Stores(pool, redis, key_prefix))
    await world.start()
    for name, value in {
        "DATABASE_URL": settler_database_url,
        "REDIS_URL": redis_url,
        "KEY_PREFIX": key_prefix,
        "DURABILITY": "none",
        "DATABASE_DURABILITY": "none",
        "EXPORT_URL": str(tmp_path / "exports"),
    }.items():
        monkeypatch.setenv(f"TAXIMETER_{name}", value)
    # Noon of one day, whatever the clock does meanwhile.
    now = f"SELECT '{today()} 12:00:00Z'::timestamptz"
    monkeypatch.setattr(days_module, "SQL", {**days_module.SQL, "now": now})
    made = Days(world, open_place(str(tmp_path / "exports")))
    await made.fill()
    return made
