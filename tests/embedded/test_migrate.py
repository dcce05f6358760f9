"""`taximeter migrate` applies the packaged migrations, on any URL that the other clients take."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from support.servers import select_one

from taximeter.api.commands import group
from taximeter.api.migrate import MigrationFailed, migrate

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


def test_the_command_fails_in_one_line() -> None:
    url = "postgresql://postgres@127.0.0.1:1/taximeter?sslmode=disable"
    result = CliRunner().invoke(group, ["migrate", "--database-url", url])
    assert result.exit_code == 1
    assert result.output.startswith("Error: dbmate up failed")
