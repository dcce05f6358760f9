"""Secrets come from the folder of credentials too, as systemd's LoadCredential fills it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from taximeter.api.commands import group
from taximeter.api.settings.api import ApiSettings
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.settler.books.settings import CREDENTIALS, SettlerSettings

HERE = "postgresql://api:from-a-file@127.0.0.1:1/taximeter"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TAXIMETER_DATABASE_URL", "TAXIMETER_MIGRATE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CREDENTIALS, str(tmp_path))
    monkeypatch.setenv("TAXIMETER_DEV_MODE", "1")
    return tmp_path


def test_every_process_reads_them_and_variables_come_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "taximeter_database_url").write_text(f"{HERE}\n")
    (folder / "taximeter_upstream_api_key").write_text("sk-from-a-file\n")
    (folder / "somebody_elses").write_text("x")
    for settings in (ApiSettings(), SettlerSettings(), SidecarSettings()):
        assert settings.database_url == HERE
    key = ApiSettings().upstream_api_key
    assert key is not None
    assert key.get_secret_value() == "sk-from-a-file"
    (folder / "taximeter_upstream_api_key").write_text("\n")
    assert ApiSettings().upstream_api_key is None, "an empty file says nothing"
    monkeypatch.setenv("TAXIMETER_DATABASE_URL", "postgresql://variable/x")
    assert ApiSettings().database_url == "postgresql://variable/x"
    (folder / "taximeter_port").write_text("many")
    with pytest.raises(ValidationError) as error:
        ApiSettings()
    assert "from-a-file" not in str(error.value)


@pytest.mark.parametrize(
    "command", [["migrate"], ["admin", "list"], ["partitions", "list"]], ids=lambda one: one[0]
)
def test_what_the_owner_runs_reads_them(folder: Path, command: list[str]) -> None:
    lacking = CliRunner().invoke(group, command)
    assert lacking.exit_code == 2
    assert "TAXIMETER_MIGRATE_DATABASE_URL" in lacking.output
    (folder / "taximeter_migrate_database_url").write_text(f"{HERE}\n")
    away = CliRunner().invoke(group, command)
    assert away.exit_code == 1, "it was tried, and nobody is there"
    assert "from-a-file" not in away.output


def test_a_folder_that_is_not_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CREDENTIALS, str(folder / "gone"))
    assert ApiSettings().database_url == "postgresql://localhost/taximeter"
