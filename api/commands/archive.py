"""Puts old months of usage into files, and brings them back: `taximeter archive`."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain, owner_database
from taximeter.api.commands.partitions import Month
from taximeter.api.commands.progress import progress_bar
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.archive.by_itself import archiving, first_kept, refuse_in_use
from taximeter.settler.archive.compare import compare_archives, find_strays
from taximeter.settler.archive.manifest import Part
from taximeter.settler.archive.months import (
    NotArchived,
    archive_month,
    last_month,
    restore_month,
    take_turn,
)
from taximeter.settler.archive.places import ArchiveError, Place, open_place
from taximeter.settler.archive.writing import SQL
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_redis

if TYPE_CHECKING:
    Conn = asyncpg.Connection[asyncpg.Record]
else:
    Conn = Any
T = TypeVar("T")

DATABASE = owner_database()


@click.group(
    help="Old months of usage as Parquet files at TAXIMETER_ARCHIVE_URL: written, read back and "
    "compared before their rows are dropped from Postgres. Reports, totals and request ids stay."
)
def command() -> None:
    """Give all their parent."""


@command.command(
    help="Archive months, the oldest first, and drop their rows. Cut off anywhere, it loses "
    "nothing and the same command goes on. This month and the last one always stay."
)
@click.option("--before", type=Month(), help="The first month that stays.")
@click.option(
    "--keep", type=click.IntRange(1, 1200), help="How many whole months stay beside this one."
)
@click.option("--dry-run", is_flag=True, help="Only say which months would go.")
@DATABASE
def write(before: dt.date | None, keep: int | None, dry_run: bool, database_url: str) -> None:
    """Archive what is older than one of the two says."""
    if (before is None) == (keep is None):
        raise click.UsageError("say --before YYYY-MM or --keep MONTHS")
    settings, place = _place()
    _run(database_url, _write, settings, place, _first_kept(before, keep), dry_run)


@command.command(name="list", help="Every month that was dropped or archived.")
@DATABASE
def list_months(database_url: str) -> None:
    """Print a line a month."""
    for row in _run(database_url, _listed):
        dropped, archived = row["dropped"] or 0, row["archived"]
        states = set(row["states"]) - {None}
        state = "archived" if "archived" in states else ", ".join(sorted(states)) or "dropped"
        if dropped > archived and archived:
            state += f", {dropped - archived:,} rows were dropped without it"
        click.echo(
            f"{row['month']:%Y-%m}  {archived:>14,} rows  "
            f"{credits_of(row['credits_used']):>18,.3f} credits  {state}"
        )


@command.command(
    help="Read every archived file, and compare it with its digest, its manifest and the rollups. "
    "Exits 1 when something is wrong, 2 when nothing is and something could not be read."
)
@DATABASE
def check(database_url: str) -> None:
    """A line for each thing that is wrong, or could not be read."""
    _, place = _place()
    with progress_bar("rows") as tell:
        found = _run(
            database_url, lambda conn: compare_archives(conn, place, files=True, tell=tell)
        )
    for line in found.wrong:
        click.echo(line, err=True)
    for line in found.unread:
        click.echo(f"could not be read: {line}", err=True)
    if found.wrong or found.unread:
        raise click.exceptions.Exit(1 if found.wrong else 2)
    click.echo("every archived file is as it was written")
    strays = _run(database_url, lambda conn: find_strays(conn, place))
    if strays:
        click.echo("nothing refers to these, which may go:")
    for name in strays:
        click.echo(f"  {name}")


@command.command(
    help="Bring the rows of an archived month back, the latest month first. Its files stay."
)
@click.argument("month", type=Month())
@DATABASE
def restore(month: dt.date, database_url: str) -> None:
    """Say how many rows came back."""
    _, place = _place()

    async def work(conn: Conn) -> int:
        await take_turn(conn)
        return await restore_month(conn, place, month)

    click.echo(f"{month:%Y-%m}: {_run(database_url, work):,} rows are back")


def _first_kept(before: dt.date | None, keep: int | None) -> dt.date:
    today = dt.datetime.now(dt.UTC).date()
    if before is None:
        return first_kept(today, keep or 1)
    newest = last_month(today)
    if before > newest:
        raise click.BadParameter(
            f"this month and the last one stay, so it is at most {newest:%Y-%m}",
            param_hint="--before",
        )
    return before


async def _write(
    conn: Conn, settings: StoreSettings, place: Place, first_kept: dt.date, dry_run: bool
) -> None:
    found = await conn.fetch(SQL["months"])
    old = [row for row in found if row["month"] < first_kept]
    if not old:
        click.echo(f"there is nothing before {first_kept:%Y-%m}")
    if dry_run:
        for row in old:
            left = row["requests"] - row["dropped_requests"]
            click.echo(f"{row['month']:%Y-%m}: {left:,} rows would go to {place.url}")
        return
    await take_turn(conn)
    redis = open_redis(settings)
    try:
        for row in old:
            await refuse_in_use(conn, redis, settings.key_prefix, row["month"])
            part = await _archive(conn, place, row)
            rows = await conn.fetchval(SQL["rows_of_part"], part.month, part.part)
            click.echo(f"{part}: {rows:,} rows are in {place.url}")
    finally:
        await redis.aclose()


async def _archive(conn: Conn, place: Place, row: asyncpg.Record) -> Part:
    """Archive a month; a bar shows how far its writing is."""
    written, rows = 0, row["requests"] - row["dropped_requests"]
    with progress_bar("rows") as tell:

        def writes(more: int) -> None:
            nonlocal written
            written += more
            tell(written, rows, f"{row['month']:%Y-%m}" if written < rows else "reading back")

        return await archive_month(conn, place, row["month"], tell=writes)


async def _listed(conn: Conn) -> list[asyncpg.Record]:
    return list(await conn.fetch(SQL["listed"]))


def _place() -> tuple[StoreSettings, Place]:
    try:
        settings = StoreSettings()
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    if settings.archive_url is None:
        raise click.ClickException(
            "TAXIMETER_ARCHIVE_URL is not set: a folder, or s3://bucket/prefix"
        )
    return settings, open_place(settings.archive_url)


def _run(database_url: str, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Do `work` on a connection. Whatever goes wrong becomes an error of the command line."""

    async def connected() -> T:
        async with archiving(database_url) as conn:
            return await work(conn, *arguments)

    try:
        return asyncio.run(connected())
    except ArchiveError as error:
        raise click.ClickException(f"the archive: {error}") from error
    except NotArchived as error:
        raise click.ClickException(str(error)) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
