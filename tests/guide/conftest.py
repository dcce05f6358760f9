"""psql, as the guide calls it, and books that are proved when the test ends."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from support.books import Books

from taximeter.api.embedded.postgres import postgres_program

Psql = Callable[..., str]
FOLDER = Path(__file__).parent


@pytest.fixture
async def books(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Books]:
    made = Books(pool)
    yield made
    await made.prove()


@pytest.fixture
def psql(database_url: str) -> Psql:
    """Runs a file of this folder as psql's input, with placeholders replaced; returns the output.

    Options such as `-At` come last. Any SQL error fails the test.
    """

    def run(
        file: str = "", *options: str, command: str = "", replace: dict[str, str] | None = None
    ) -> str:
        text = (FOLDER / file).read_text(encoding="utf-8") if file else ""
        for placeholder, value in (replace or {}).items():
            assert placeholder in text
            text = text.replace(placeholder, value)
        finished = subprocess.run(
            [
                *(str(postgres_program("psql")), "--no-psqlrc", "--set=ON_ERROR_STOP=1"),
                *options,
                *(["-c", command] if command else []),
                database_url,
            ],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run
