"""A migrated database whose books are proved when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from support.books import Books, Conn


@pytest.fixture
async def books(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Books]:
    made = Books(pool)
    yield made
    await made.prove()


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[tuple[Conn, Conn]]:
    first, second = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    yield first, second
    await first.close()
    await second.close()
