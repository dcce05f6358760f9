"""`taximeter archive` and `taximeter usage`, as an operator runs them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from archived_months import FEBRUARY, JANUARY, Months
from click.testing import CliRunner, Result
from settler_world import World

from taximeter.api.commands import group
from taximeter.api.commands.archive import _first_kept
from taximeter.settler.archive.months import last_month
from taximeter.settler.archive.places import Place
from taximeter.settler.books.stores import Stores


@pytest.fixture
async def world(
    pool: asyncpg.Pool[asyncpg.Record],
    redis: object,
    key_prefix: str,
    database_url: str,
    redis_url: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Both stores, and the variables by which the commands find them."""
    made = World(Stores(pool, redis, key_prefix))
    await made.start()
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KEY_PREFIX": key_prefix,
        "DURABILITY": "none",
        "DATABASE_DURABILITY": "none",
        "ARCHIVE_URL": place.url,
    }.items():
        monkeypatch.setenv(f"TAXIMETER_{name}", value)
    return made


async def run(*arguments: str) -> Result:
    """In a thread, since the commands have loops of their own."""
    return await asyncio.to_thread(CliRunner().invoke, group, arguments)


async def test_from_postgres_to_files_and_back(months: Months, world: World) -> None:
    before = await run(
        *("usage", "acme", "--from", "2025-01-01", "--to", "2025-02-28", "--format", "jsonl")
    )
    assert before.exit_code == 0, before.output
    dry = await run("archive", "write", "--before", "2025-02", "--dry-run")
    assert dry.output == f"2025-01: 30 rows would go to {months.place.url}\n"
    done = await run("archive", "write", "--keep", "1")
    assert done.output == (
        f"2025-01: 30 rows are in {months.place.url}\n2025-02: 30 rows are in {months.place.url}\n"
    )
    again = await run("archive", "write", "--keep", "1")
    assert again.output.startswith("there is nothing before ")
    listed = (await run("archive", "list")).output.splitlines()
    assert [line.split()[::5] for line in listed] == [
        ["2025-01", "archived"],
        ["2025-02", "archived"],
    ]
    assert "every archived file is as it was written" in (await run("archive", "check")).output
    after = await run(
        *("usage", "acme", "--from", "2025-01-01", "--to", "2025-02-28", "--format", "jsonl")
    )
    assert after.output == before.output
    rows = [json.loads(line) for line in after.output.splitlines()]
    assert len(rows) == 24
    assert rows[0]["millicredits"] == round(rows[0]["credits_used"] * 1000)
    table = await run("usage", "acme", "--from", "2025-01-01", "--to", "2025-01-31")
    assert "2025-01  llm_inference" in table.output
    assert table.output.splitlines()[-1].startswith("2025-01-01 to 2025-01-31: 15 requests, ")
    for last, periods, requests in (("01-31", 31, 15), ("12-31", 53, 30)):
        plot = await run(
            *("usage", "acme", "--from", "2025-01-01", "--to", f"2025-{last}", "--format", "plot")
        )
        lines = [line.split() for line in plot.output.splitlines()[1:]]
        assert len(lines) == periods
        assert sum(int(line[2]) for line in lines) == requests
    found = await run("usage", "acme", "--from", "2025-01-01", "--request", "r4", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(found.output)))
    assert [one["request_id"] for one in lines] == ["r4", "r4"]
    back = await run("archive", "restore", "2025-02")
    assert back.output == "2025-02: 30 rows are back\n"
    assert await months.has(FEBRUARY) == 30


async def test_a_month_in_use_is_refused_with_a_sentence(
    months: Months, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is not settled may be of that month."""
    await world.organization("busy", ann=1000)
    await world.charge("ann", 5, org_id="busy")
    refused = await run("archive", "write", "--before", "2025-02")
    assert refused.exit_code == 1
    assert refused.output == (
        "Error: 2025-01 is in use: events of it may wait to be settled (shard 0); start a settler,"
        " and try again\n"
    )
    assert await months.has(JANUARY) == 30
    monkeypatch.setenv("TAXIMETER_REDIS_URL", "redis://127.0.0.1:1")
    unknown = await run("archive", "write", "--before", "2025-02")
    assert "2025-01: whether events of it wait to be settled is not known" in unknown.output


async def test_check_looks_at_manifests_and_by_a_flag_at_files(
    months: Months, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await run("archive", "write", "--before", "2025-02")).exit_code == 0
    names = months.place.names("2025-01")
    file = next(name for name in names if name.endswith(".parquet"))
    content = months.place.read(file)
    months.place.write(file, content + b"x")

    async def i2(*arguments: str) -> dict[str, object]:
        report = json.loads((await run("check", "--json", *arguments)).output)
        return next(one for one in report["invariants"] if one["name"] == "I2")

    assert (await i2())["violations"] == []
    assert f"archive: 2025-01: {file} is not what" in str((await i2("--archives"))["violations"])
    months.place.write(file, content)
    found = await i2("--archives")
    assert found["violations"] == []
    assert found["figures"]["archived_rows"] == 30  # type: ignore[index]


BY_HAND = (
    "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used, created_at)"
    " VALUES ('acme', 'ann', 'by_hand', 5, '2025-01-02Z')"
)


def put_away(place: Place) -> Path:
    """The folder is not there any more, as one that is not mounted."""
    return Path(place.url).rename(f"{place.url}-hidden")


def put_back(place: Place, hidden: Path) -> None:
    Path(place.url).rmdir()
    hidden.rename(place.url)


async def test_what_cannot_be_read_is_neither_right_nor_wrong(
    world: World, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, by whichever way the archive is away."""
    await world.organization("acme", ann=1_000)
    await world.pool.execute("SELECT taximeter.make_attribution_month($1)", JANUARY)
    await world.pool.execute(BY_HAND)
    assert (await run("archive", "write", "--before", "2025-02")).exit_code == 0
    hidden = put_away(place)
    for away in ("missing", "empty", "not known"):
        if away == "empty":
            os.mkdir(place.url)
        if away == "not known":
            monkeypatch.delenv("TAXIMETER_ARCHIVE_URL")
        told = await run("check", "--json")
        report = json.loads(told.output)
        assert (told.exit_code, report["holds"]) == (2, None), (away, told.output)
        found = next(one for one in report["invariants"] if one["name"] == "I2")
        assert (found["holds"], found["violations"]) == (None, [])
        assert found["could_not_be_read"]
        if away != "not known":
            told = await run("archive", "check")
            assert (told.exit_code, "could not be read: 2025-01" in told.output) == (2, True)
    told = await run("check", "--archives")
    assert told.exit_code == 2
    assert "the rest is not proved" in " ".join(told.output.split())
    # What is wrong is wrong, whatever else could not be read.
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "1 0 1")
    assert (await run("check")).exit_code == 1
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "1000 0 1")
    monkeypatch.setenv("TAXIMETER_ARCHIVE_URL", place.url)
    put_back(place, hidden)
    assert (await run("check")).exit_code == 0


async def test_what_is_said_wrongly_is_said_in_a_line(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for arguments, message in (
        (("archive", "write"), "say --before YYYY-MM or --keep MONTHS"),
        (("archive", "write", "--before", "2999-01"), "this month and the last one stay"),
        (("archive", "restore", "2025-01"), "2025-01 is not archived"),
        (("usage", "nobody"), "there is no organization nobody"),
        (("usage", "acme", "--from", "2025-02-01", "--to", "2025-01-01"), "not be after --to"),
        (("usage", "acme", "--request", "r"), "--request needs --format csv or jsonl"),
    ):
        answer = await run(*arguments)
        assert answer.exit_code != 0
        assert message in answer.output
    monkeypatch.delenv("TAXIMETER_ARCHIVE_URL")
    answer = await run("archive", "check")
    assert "TAXIMETER_ARCHIVE_URL is not set" in answer.output


def test_how_many_months_stay() -> None:
    newest = last_month(datetime.now(UTC).date())
    assert _first_kept(None, 1) == newest
    assert _first_kept(None, 13) == newest.replace(year=newest.year - 1)
