"""The bench of seals, in small: it fills, seals and proves, and each look finds the books right."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from bench import sealed
from bench.history import History
from taximeter.settler.books.stores import Stores

pytestmark = pytest.mark.slow


async def test_a_year_is_sealed_and_a_look_reads_what_is_newer(
    database_url: str, redis: Any, key_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asyncpg.create_pool(
        database_url, min_size=1, max_size=6, server_settings={"timezone": "UTC"}
    ) as pool:
        await sealed.measure(Stores(pool, redis, key_prefix), History(120, 4, 5))
    told = capsys.readouterr().out
    (new,) = {line for line in told.splitlines() if line.startswith("rows it read")}
    assert int(new.rpartition(" ")[2]) <= 5, "a look that trusts the seals reads them"
    for part in ("look without a seal", "all of it is sealed", "full proof"):
        assert f"{part}: " in told
