"""Shows what an organisation used, as its reports say it or charge by charge: `taximeter usage`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import click
from pydantic import ValidationError
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from taximeter.api.billing.charges import (
    Charge,
    Charges,
    Chosen,
    Reader,
    csv_of,
    reader_of,
    view_of,
)
from taximeter.api.billing.usage_reports import last_days
from taximeter.api.commands.common import explain
from taximeter.api.sql import USAGE
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.archive.places import ArchiveError
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Pool

PAGE = 5_000
DAYS_PLOTTED = 62
WEEKS_PLOTTED = 62
READ_S = 3_600.0
DAY = click.DateTime(["%Y-%m-%d"])


@click.command(
    help="What ORG used, from what is settled: by month and kind of service, or charge by charge, "
    "the newest first. Charges of archived months come from TAXIMETER_ARCHIVE_URL."
)
@click.argument("org_id", metavar="ORG")
@click.option("--from", "first", type=DAY, help="First day, in UTC; by default 30 days ago.")
@click.option("--to", "last", type=DAY, help="Last day, in UTC; by default today.")
@click.option("--user", "user_id", help="Only this user.")
@click.option("--request", "request_id", help="Only this request; with csv or jsonl.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "plot", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="`table` adds up, `plot` draws days (weeks and months of longer times); the others have a "
    "line for each charge.",
)
def command(
    org_id: str,
    first: datetime | None,
    last: datetime | None,
    user_id: str | None,
    request_id: str | None,
    form: str,
) -> None:
    """Print the report, or page after page of charges."""
    start, end = last_days()
    start, end = first.date() if first else start, last.date() if last else end
    if start > end:
        raise click.BadParameter("must not be after --to", param_hint="--from")
    if end == date.max:
        raise click.BadParameter("is too late", param_hint="--to")
    if form in ("table", "plot") and request_id is not None:
        raise click.UsageError("--request needs --format csv or jsonl")
    try:
        settings = StoreSettings()
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    try:
        asyncio.run(_print(settings, org_id, start, end, user_id, request_id, form))
    except ArchiveError as error:
        raise click.ClickException(f"the archive: {error}") from error


async def _print(
    settings: StoreSettings,
    org_id: str,
    first: date,
    last: date,
    user_id: str | None,
    request_id: str | None,
    form: str,
) -> None:
    async with make_pool(
        settings.database_url,
        size_max=1,
        command_timeout_s=settings.database_timeout_s,
        wait_s=settings.database_timeout_s,
        server_settings={"application_name": "taximeter-usage"},
        accept_loss=settings.database_durability == "none",
    ) as pool:
        if not await pool.fetchval(USAGE["organization_exists"], org_id):
            raise click.ClickException(f"there is no organization {org_id}")
        if form == "table":
            await _print_table(pool, org_id, first, last, user_id)
            return
        if form == "plot":
            await _plot(pool, org_id, first, last, user_id)
            return
        chosen = Chosen(
            org_id,
            datetime.combine(first, time(), UTC),
            datetime.combine(last + timedelta(days=1), time(), UTC),
            user_id=user_id,
            request_id=request_id,
        )
        charges = Charges(settings.archive_url, read_s=READ_S)
        await _print_charges(charges, reader_of(pool), chosen, form)


async def _print_table(
    pool: Pool, org_id: str, first: date, last: date, user_id: str | None
) -> None:
    rows = await pool.fetch(USAGE["usage_by_month_and_service"], org_id, first, last, user_id)
    for row in rows:
        click.echo(
            f"{row['month']:%Y-%m}  {row['name']:<24}  {row['requests']:>14,} requests  "
            f"{credits_of(row['credits_used']):>18,.3f} credits"
        )
    requests = sum(row["requests"] for row in rows)
    used = credits_of(sum(row["credits_used"] for row in rows))
    click.echo(f"{first} to {last}: {requests:,} requests, {used:,.3f} credits")


async def _plot(pool: Pool, org_id: str, first: date, last: date, user_id: str | None) -> None:
    """A bar for each day, week or month, also for those in which nothing was used."""
    length = (last - first).days
    period = "day" if length <= DAYS_PLOTTED else "week" if length <= WEEKS_PLOTTED * 7 else "month"
    if user_id is None:
        rows = await pool.fetch(USAGE["usage_by_period"], org_id, first, last, None, period)
    else:
        rows = await pool.fetch(
            USAGE["own_usage_by_period"], org_id, first, last, None, user_id, period
        )
    found = {row["period"]: row for row in rows}
    most = max((row["credits_used"] for row in rows), default=0)
    table = Table(box=None, pad_edge=False)
    for name in (period, "credits", "requests"):
        table.add_column(name, justify="left" if name == period else "right", no_wrap=True)
    table.add_column("", ratio=1)
    for start in _starts(first, last, period):
        row = found.get(start)
        used, requests = (row["credits_used"], row["requests"]) if row is not None else (0, 0)
        table.add_row(
            str(start), f"{credits_of(used):,.3f}", f"{requests:,}", Bar(max(most, 1), 0, used)
        )
    Console(highlight=False).print(table)


def _starts(first: date, last: date, period: str) -> Iterator[date]:
    """The first days of all periods that a range touches, as Postgres' date_trunc has them."""
    at = first
    if period != "day":
        at -= timedelta(days=first.weekday() if period == "week" else first.day - 1)
    while at <= last:
        yield at
        step = {"day": 1, "week": 7}.get(period, 31)
        at += timedelta(days=step)
        if period == "month":
            at = at.replace(day=1)


async def _print_charges(charges: Charges, read: Reader, chosen: Chosen, form: str) -> None:
    head = True
    while True:
        rows = await charges.page(read, chosen, PAGE)
        if form == "csv":
            click.echo(csv_of(rows, head=head), nl=False)
        else:
            for row in rows:
                click.echo(json.dumps(_exact(row), ensure_ascii=False))
        if len(rows) < PAGE:
            return
        head = False
        chosen = chosen._replace(last_at=rows[-1]["created_at"], last_id=rows[-1]["id"])


def _exact(row: Charge) -> dict[str, Any]:
    """A charge with its amounts as whole millicredits beside those in credits."""
    return {
        **view_of(row).model_dump(mode="json"),
        "millicredits": row["credits_used"],
        "reserved_millicredits": row["reserved"],
    }
