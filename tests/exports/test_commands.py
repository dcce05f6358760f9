"""`taximeter export` and `taximeter check --exports`, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from exported_days import Days
from rich.console import Console

from taximeter.api.commands import group
from taximeter.api.commands.progress import progress_bar


async def run(*arguments: str) -> Result:
    """In a thread, since the commands have loops of their own."""
    return await asyncio.to_thread(CliRunner().invoke, group, arguments)


async def test_days_of_the_past_are_written_and_compared(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, quiet = days.all
    span = ("export", "--from", str(first), "--to", str(quiet))
    one = await run("export", "--to", str(first), "--kind", "usage", "--format", "csv")
    assert one.output == f"{first}: revision 1: 24 usage\n"
    done = await run(*span)
    lines = done.output.splitlines()
    assert lines[0] == f"{first}: revision 2: 24 usage, 60 requests, 4 ledger, 2 audit"
    assert [line.split(":")[0] for line in lines] == [str(first), str(second), str(quiet)]
    again = await run(*span)
    assert again.output == f"nothing to do: {first} to {quiet} are there and right\n"
    whole = await run(*span, "--again", "--kind", "usage")
    assert whole.output.splitlines()[2] == f"{quiet}: revision 2: 0 usage"

    checked = await run("check", "--exports")
    assert checked.exit_code in (1, 3), checked.output  # The entries of these tests are made up.
    assert "The exports of 3 days are right: 180 rows." in checked.output
    await days.charge(second)
    found = json.loads((await run("check", "--json", "--exports", days.place.url)).output)
    assert f"{second}: usage has" in found["exports"]["wrong"][0]
    # What cannot be written keeps nothing else waiting, and is said in one line.
    later = await run("export", "--from", str(second), "--to", "2999-01-01")
    assert (later.exit_code, "at most 3,660 days" in later.output) == (2, True)
    await days.world.pool.execute(
        "INSERT INTO taximeter.dropped_months (month, requests, credits_used) VALUES ($1, 0, 0)",
        second.replace(day=1),
    )
    gone = await run("export", "--to", str(second))
    assert (gone.exit_code, gone.output.count("\n")) == (1, 1)
    assert f"archive restore {second:%Y-%m}" in gone.output
    rest = await run("export", "--to", str(second), "--kind", "usage")
    assert rest.output == f"{second}: revision 3: 24 usage\n"
    monkeypatch.delenv("TAXIMETER_EXPORT_URL")
    unsaid = await run(*span)
    assert (unsaid.exit_code, "say where to" in unsaid.output) == (2, True)
    monkeypatch.setenv(
        "TAXIMETER_EXPORT_URL", str(Path(days.place.url) / "manifests" / f"{first}.json")
    )
    wrong = await run(*span)
    assert (wrong.exit_code, wrong.output.count("\n")) == (1, 1)


async def test_today_is_not_over(days: Days) -> None:
    never = await run("export", "--to", "9999-12-31")
    assert (never.exit_code, "is too late" in never.output) == (2, True)
    refused = await run("export", "--to", "2999-12-31")
    assert refused.exit_code == 1
    assert refused.output == "Error: 2999-12-31 is not over: it is exported 5 min after it\n"


def test_a_bar_is_for_terminals_alone() -> None:
    for is_terminal in (True, False):
        written = StringIO()
        console = Console(file=written, force_terminal=is_terminal, width=100)
        with progress_bar("days", console) as tell:
            tell(1, 3, "2026-11-29: 20,000 rows")
        assert ("1/3" in written.getvalue()) is is_terminal
