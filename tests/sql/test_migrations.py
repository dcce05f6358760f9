"""The migrations: each can be undone, and together they make the schema that is committed.

After a change of a migration, write the new migrations/schema.sql with `make schema` and read its
diff.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest
from support.schema import dump, readable, without_noise

from taximeter.api.processes.migrate import migrate

SNAPSHOT = Path(__file__).parents[2] / "migrations" / "schema.sql"
WRITE = os.environ.get("WRITE_SCHEMA") == "1"
EVERY = os.environ.get("EVERY_MIGRATION") == "1"
NEWEST = 10
SNAPSHOT_IS_OF_POSTGRES = 18
MIGRATIONS = sorted(
    file.name
    for file in importlib.resources.files("taximeter.migrations").iterdir()
    if file.name.endswith(".sql") and file.name != SNAPSHOT.name
)


def text_of(migration: str) -> str:
    return (importlib.resources.files("taximeter.migrations") / migration).read_text("utf-8")


def dumped_schema(url: str) -> str:
    """The schema as pg_dump prints it, without comments, settings and the months of usage."""
    return without_noise(dump(url))


async def relations(url: str) -> list[str]:
    conn = await asyncpg.connect(url)
    try:
        found = await conn.fetch(
            "SELECT relnamespace::regnamespace || '.' || relname AS name FROM pg_class"
            " WHERE relnamespace::regnamespace::text IN ('public', 'taximeter')"
            " UNION ALL SELECT pronamespace::regnamespace || '.' || proname FROM pg_proc"
            " WHERE pronamespace::regnamespace::text IN ('public', 'taximeter')"
            " UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'taximeter'"
        )
        return sorted(row["name"] for row in found if "schema_migrations" not in row["name"])
    finally:
        await conn.close()


def test_names_are_timestamps_and_say_what() -> None:
    for migration in MIGRATIONS:
        assert re.fullmatch(r"\d{14}_[a-z]+(_[a-z]+)*\.sql", migration), migration


APPLIED_BEFORE_TIMES_WERE_CHECKED = {
    "20261123156000_shard_layouts.sql",
    "20261123158000_ledger_memory.sql",
}
"""Their minutes are 60 and 80. They are applied elsewhere by these names, so they keep them."""


def test_a_new_migration_has_a_time_that_there_is() -> None:
    for migration in set(MIGRATIONS) - APPLIED_BEFORE_TIMES_WERE_CHECKED:
        datetime.strptime(migration[:14], "%Y%m%d%H%M%S")  # Raises ValueError.


def _lines(schema: str) -> list[str]:
    return [line for line in without_noise(schema).splitlines() if line]


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_a_header_says_why_which_locks_and_what_may_run_beside_it(migration: str) -> None:
    header = text_of(migration).partition("-- migrate:up")[0]
    for promise in ("-- Why: ", "-- Locks: ", "-- Older code beside it: "):
        assert promise in header


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_every_index_says_which_query_it_serves(migration: str) -> None:
    lines = text_of(migration).partition("-- migrate:down")[0].splitlines()
    for number, line in enumerate(lines):
        if re.match(r"CREATE (UNIQUE )?INDEX", line):
            assert lines[number - 1].startswith("-- Serves "), line


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_a_migration_has_a_way_back(migration: str) -> None:
    down = text_of(migration).partition("-- migrate:down")[2]
    assert "DROP" in down


async def test_the_migrations_make_the_committed_schema(database_url: str) -> None:
    conn = await asyncpg.connect(database_url)
    major = conn.get_server_version().major
    await conn.close()
    if major != SNAPSHOT_IS_OF_POSTGRES:
        pytest.skip(f"schema.sql is a dump of Postgres {SNAPSHOT_IS_OF_POSTGRES}, not {major}")
    schema = readable(database_url)
    if WRITE:
        SNAPSHOT.write_text(schema, encoding="utf-8")
    assert "-- Others\n" not in schema, "give a new table its group in tests/support/schema.py"
    # Whole lines, none twice or left out: sorting them takes the order of the groups away.
    assert sorted(_lines(schema)) == sorted(_lines(dumped_schema(database_url)))
    assert schema == SNAPSHOT.read_text(encoding="utf-8")


async def test_all_the_way_down_leaves_nothing_and_up_again_the_same(
    empty_database_url: str,
) -> None:
    migrate(empty_database_url)
    before, schema = await relations(empty_database_url), dumped_schema(empty_database_url)
    conn = await asyncpg.connect(empty_database_url)
    await conn.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ('o', 'o', 'o', 'a');"
        "SELECT add_credits_to_pool('o', 100, 1);"
        "SELECT allocate_credits_to_user('o', 'a', 9, 'b');"
        "SELECT deduct_credits('o', 'a', 1, 's', 'm', 'r', '{}')"
    )
    await conn.close()
    for _ in MIGRATIONS:
        migrate(empty_database_url, "down")
    assert await relations(empty_database_url) == []
    migrate(empty_database_url)
    assert await relations(empty_database_url) == before
    assert dumped_schema(empty_database_url) == schema


@pytest.mark.timeout(600)
def test_each_step_down_and_up_again_is_the_same_schema(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each migration alone, on those before it: by induction, of any number of them. The newest
    ones in the suite, since the others were among them once; EVERY_MIGRATION=1 takes all.
    """
    migrate(empty_database_url)
    for migration in MIGRATIONS:
        (tmp_path / migration).write_text(text_of(migration), encoding="utf-8")
    monkeypatch.setattr(
        "taximeter.api.processes.migrate.importlib.resources.files", lambda _: tmp_path
    )
    for migration in reversed(MIGRATIONS if EVERY else MIGRATIONS[-NEWEST:]):
        schema = dumped_schema(empty_database_url)
        migrate(empty_database_url, "down")
        migrate(empty_database_url)
        assert dumped_schema(empty_database_url) == schema, migration
        migrate(empty_database_url, "down")
        (tmp_path / migration).unlink()
