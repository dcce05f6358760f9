"""Months of usage of a year ago, and a folder for their archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from archived_months import Months
from support.books import Conn
from support.s3 import bucket as bucket
from support.s3 import endpoint as endpoint

from taximeter.settler.archive.places import Place, open_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return open_place(str(tmp_path / "archive"))


@pytest.fixture
async def months(
    pool: asyncpg.Pool[asyncpg.Record], database_url: str, place: Place
) -> AsyncIterator[Months]:
    """January and February 2025 of two organisations; whatever a test does, no row may be lost or
    doubled in the end, and the books prove.
    """
    conn: Conn = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    try:
        made = Months(pool, conn, database_url, place)
        await made.fill()
        yield made
        assert await made.everything() == made.written
        assert await made.violations() == []
    finally:
        await conn.close()
