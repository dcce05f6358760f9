"""`taximeter migrate` applies the packaged migrations, on any URL that the other clients take."""

from __future__ import annotations

import importlib.resources
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from click.testing import CliRunner
from support.servers import run_sql, select_one, with_database

from taximeter.api.commands import group
from taximeter.api.processes.migrate import MigrationFailed, migrate
from taximeter.settler.books.connections import OLDEST_POSTGRES

CONTRACT_TABLE = "SELECT to_regclass('public.user_credit_allocations') IS NOT NULL"


def test_up_status_and_down(empty_database_url: str) -> None:
    assert "Pending: 0" not in migrate(empty_database_url, "status")
    migrate(empty_database_url)
    assert select_one(empty_database_url, CONTRACT_TABLE) == "t"
    status = migrate(empty_database_url, "status")
    assert "Pending: 0" in status
    for _ in range(status.count("[X]")):
        migrate(empty_database_url, "down")
    assert select_one(empty_database_url, CONTRACT_TABLE) == "f"
    assert "Applied: 0" in migrate(empty_database_url, "status")


def test_up_again_changes_nothing(database_url: str) -> None:
    assert "Applying" not in migrate(database_url)


def test_a_url_that_says_nothing_of_tls_works_without_it(empty_database_url: str) -> None:
    """psql and asyncpg fall back to a plain connection; whoever uses them expects the same."""
    migrate(empty_database_url.partition("?")[0])
    assert select_one(empty_database_url, CONTRACT_TABLE) == "t"


def test_settings_around_it_do_not_count(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbmate reads variables of its own: those of another project must not reach our database."""
    monkeypatch.setenv("DATABASE_URL", "postgres://nobody@127.0.0.1:1/elsewhere")
    monkeypatch.setenv("DBMATE_MIGRATIONS_DIR", "/nonexistent")
    migrate(empty_database_url)
    assert select_one(empty_database_url, CONTRACT_TABLE) == "t"


def test_an_error_shows_what_dbmate_said() -> None:
    with pytest.raises(MigrationFailed, match="connection refused"):
        migrate("postgresql://postgres@127.0.0.1:1/taximeter?sslmode=disable")


def test_the_command_takes_its_url_from_the_environment(empty_database_url: str) -> None:
    environment = {"TAXIMETER_DATABASE_URL": empty_database_url}
    result = CliRunner().invoke(group, ["migrate"], env=environment)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(group, ["migrate", "status"], env=environment)
    assert "Pending: 0" in result.output


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://postgres@127.0.0.1:1/taximeter?sslmode=disable", "is Postgres running"),
        ("127.0.0.1/taximeter", "must be postgresql://"),
    ],
)
def test_the_command_fails_in_one_line(url: str, words: str) -> None:
    for arguments, variables, name in (
        (["--database-url", url], {}, "--database-url"),
        ([], {"TAXIMETER_MIGRATE_DATABASE_URL": url}, "TAXIMETER_MIGRATE_DATABASE_URL"),
        ([], {"TAXIMETER_DATABASE_URL": url}, "TAXIMETER_DATABASE_URL"),
    ):
        result = CliRunner().invoke(group, ["migrate", *arguments], env=variables)
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: the database of {name} is not migrated: ")
        assert words in result.output
        assert result.output.count("\n") == 1


def test_an_owner_who_lacks_a_right_is_told_which(session_database_url: str) -> None:
    """A user who may make no database is told to have one made, and one whose database it is not,
    to be given it.
    """
    name = f"plain_{uuid.uuid4().hex[:12]}"
    run_sql(session_database_url, f'CREATE ROLE "{name}" LOGIN')
    run_sql(session_database_url, f'CREATE DATABASE "{name}"')
    parts = urlsplit(session_database_url)
    mine = urlunsplit(parts._replace(netloc=f"{name}@{parts.hostname}:{parts.port}"))
    try:
        for database, words in ((name, "must own"), (f"{name}_none", "CREATE DATABASE")):
            url = with_database(mine, database)
            result = CliRunner().invoke(group, ["migrate", "--database-url", url])
            assert result.exit_code == 1
            assert words in result.output
            assert result.output.count("\n") == 1
    finally:
        run_sql(session_database_url, f'DROP DATABASE "{name}"')
        run_sql(session_database_url, f'DROP ROLE "{name}"')


def test_an_owner_named_as_our_schema_can_migrate(session_database_url: str) -> None:
    """By default that user's path begins with the schema of that name, once it is there."""
    run_sql(session_database_url, "CREATE ROLE taximeter LOGIN CREATEROLE SUPERUSER")
    name = f"named_{uuid.uuid4().hex[:12]}"
    run_sql(session_database_url, f'CREATE DATABASE "{name}" OWNER taximeter')
    parts = urlsplit(with_database(session_database_url, name))
    url = urlunsplit(parts._replace(netloc=f"taximeter@{parts.hostname}:{parts.port}"))
    try:
        migrate(url)
        assert "Applying" not in migrate(url)
        where = "SELECT string_agg(schemaname, ',') FROM pg_tables WHERE tablename = '{}'"
        for table in ("organizations", "schema_migrations"):
            assert select_one(url, where.format(table)) == "public"
    finally:
        run_sql(session_database_url, f'DROP DATABASE "{name}"')
        run_sql(session_database_url, "DROP ROLE taximeter")


def test_the_oldest_postgres_is_the_same_everywhere() -> None:
    """The first migration and every process refuse an older one; README and pages name it."""
    migrations = importlib.resources.files("taximeter.migrations")
    first = min(file.name for file in migrations.iterdir() if file.name[:1].isdigit())
    assert f"< {OLDEST_POSTGRES * 10_000} THEN" in (migrations / first).read_text("utf-8")
    root = Path(__file__).parents[2]
    for page in ("README.md", "docs/quickstart.md"):
        assert f"Postgres {OLDEST_POSTGRES}" in (root / page).read_text("utf-8")
