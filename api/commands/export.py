"""Writes exports of days that are over: `taximeter export`."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg
import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain
from taximeter.api.commands.progress import Tell, progress_bar
from taximeter.settler.archive.places import ArchiveError, Place, open_place
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import open_redis
from taximeter.settler.exports.by_itself import exporting, wanted_of
from taximeter.settler.exports.days import (
    NotExported,
    due_days,
    refuse_open_day,
    take_turn,
    write_day,
)
from taximeter.settler.exports.formats import MissingPackage
from taximeter.settler.exports.kinds import FORMATS, KINDS

DAY = click.DateTime(["%Y-%m-%d"])
DAYS_MAX = 3_660


@click.command(
    help="Write exports of days at TAXIMETER_EXPORT_URL: yesterday, or from one day to another. "
    "What is there and still right is left alone, so a run that was cut off is gone on with by the "
    "same command. See docs/exports.md."
)
@click.option("--from", "first", type=DAY, help="First day, in UTC; by default that of --to.")
@click.option("--to", "last", type=DAY, help="Last day, included; by default yesterday.")
@click.option("--url", help="Another folder or s3://bucket/prefix.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(list(KINDS)),
    multiple=True,
    help="Only this kind; several times for several. By default TAXIMETER_EXPORT_KINDS.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="As this; several times for several. By default TAXIMETER_EXPORT_FORMATS.",
)
@click.option("--again", is_flag=True, help="Write also what is there already.")
def command(
    first: datetime | None,
    last: datetime | None,
    url: str | None,
    kinds: tuple[str, ...],
    formats: tuple[str, ...],
    again: bool,
) -> None:
    """Print a line for each day that was written."""
    end = last.date() if last else datetime.now(UTC).date() - timedelta(days=1)
    start = first.date() if first else end
    if start > end:
        raise click.BadParameter("must not be after --to", param_hint="--from")
    if end == date.max:
        raise click.BadParameter("is too late", param_hint="--to")
    if (end - start).days >= DAYS_MAX:
        raise click.BadParameter(f"at most {DAYS_MAX:,} days at a time", param_hint="--from")
    given = {"export_url": url, "export_kinds": kinds, "export_formats": formats}
    try:
        settings = SettlerSettings(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
        if settings.export_url is None:
            raise click.UsageError(
                "say where to: --url or TAXIMETER_EXPORT_URL, a folder or s3://bucket/prefix"
            )
        place = open_place(settings.export_url)
        days = [start + timedelta(days=nth) for nth in range((end - start).days + 1)]
        with progress_bar("days") as tell:
            refused = asyncio.run(_write(settings, place, days, again, tell))
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    except (ArchiveError, MissingPackage) as error:
        raise click.ClickException(str(error)) from error
    except NotExported as error:
        raise click.ClickException(str(error)) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
    if refused:
        raise click.ClickException("; ".join(refused[:3]))


async def _write(
    settings: SettlerSettings, place: Place, days: list[date], again: bool, tell: Tell
) -> list[str]:
    """Write the days in their order; why some were not."""
    refused: list[str] = []
    wanted = wanted_of(settings)
    redis = open_redis(settings)
    try:
        async with exporting(settings) as conn:
            await take_turn(conn)
            due = days if again else await due_days(conn, place, wanted, days)
            for nth, day in enumerate(due):
                read = 0

                def reads(rows: int, nth: int = nth, day: date = day) -> None:
                    nonlocal read
                    read += rows
                    tell(nth, len(due), f"{day}: {read:,} rows")

                reads(0)
                try:
                    await refuse_open_day(conn, redis, settings.key_prefix, day)
                    done = await write_day(conn, place, wanted, day, again=again, tell=reads)
                except NotExported as error:
                    refused.append(str(error))
                    continue
                rows = ", ".join(f"{rows:,} {kind}" for kind, rows in done.rows.items())
                click.echo(f"{day}: revision {done.revision}: {rows or 'unchanged'}")
    finally:
        await redis.aclose()
    if not due:
        click.echo(f"nothing to do: {days[0]} to {days[-1]} are there and right")
    return refused
