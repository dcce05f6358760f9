"""The drill of docs/backups.md, small: what is put back is found out, and what is missing is what
the page says. `make restore-drill` makes all of it, of any size.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.memory import memory_folder
from support.postgres_once import PostgresOnce

from drill.cases import CASES, drill

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(["beyond-retention"], id="in short"),
        pytest.param(list(CASES), id="all", marks=pytest.mark.long),
    ],
)
async def test_what_is_missing_after_a_restore_is_what_the_page_says(
    tmp_path: Path, cases: list[str], migrated_postgres: PostgresOnce
) -> None:
    told: list[str] = []
    with memory_folder() as memory:
        folder = memory or tmp_path
        migrated_postgres(folder / "postgres")
        results = await drill(folder, rows=300, count=60, cases=cases, say=told.append)
    assert [one.name for one in results] == cases
    assert {one.name: one.wrong for one in results if one.wrong} == {}, told
