"""A migrated database whose books are proved when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from support.books import Books


@pytest.fixture
async def books(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Books]:
    made = Books(pool)
    yield made
    await made.prove()
