"""Lists the months of usage, and drops old ones: `taximeter partitions`."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import click

from taximeter.api.commands.common import owner_database
from taximeter.api.sql import PARTITIONS
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.books.connections import primary_of

if TYPE_CHECKING:
    Conn = asyncpg.Connection[asyncpg.Record]
else:
    Conn = Any
T = TypeVar("T")

ATTEMPTS = 5
TIMEOUT_S = 3_600.0

DATABASE = owner_database()


class Month(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions alone.
    """A month written as YYYY-MM; becomes its first day."""

    name = "YYYY-MM"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dt.date:
        text = str(value)
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) or text.startswith("0000"):
            self.fail(f"{text!r} is not a month, such as 2026-05", param, ctx)
        return dt.date(int(text[:4]), int(text[5:]), 1)


@click.group(
    help="The months of usage: their rows can be dropped when they are old, while reports, "
    "balances and request ids keep what they held."
)
def command() -> None:
    """Give both their parent."""


@command.command(name="list", help="Every month with usage, and whether its rows are there.")
@DATABASE
def list_months(database_url: str) -> None:
    """Print a line a month."""
    for month in _run(database_url, _months):
        state = month["partition"] or ("-" if _rows_left(month) else "dropped")
        click.echo(
            f"{month['month']:%Y-%m}  {month['requests']:>14,} requests  "
            f"{credits_of(month['credits_used']):>18,.3f} credits  "
            f"{_rows_left(month):>14,} rows  {state}"
        )


@command.command(
    help="Drop the rows of all months before this one; `taximeter archive` keeps them. Totals stay "
    "as they are: daily rollups, used credits and the ids of charged requests are kept. This month "
    "and the last one never go."
)
@click.option("--before", type=Month(), required=True, help="The first month that stays.")
@click.option("--dry-run", is_flag=True, help="Only say which months would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DATABASE
def drop(before: dt.date, dry_run: bool, yes: bool, database_url: str) -> None:
    """Drop month by month, the oldest first. One that is dropped is gone for good; a crash leaves
    whole months, and the same command goes on.
    """
    first_kept = _last_month()
    if before > first_kept:
        raise click.BadParameter(
            f"this month and the last one stay, so it is at most {first_kept:%Y-%m}",
            param_hint="--before",
        )
    found = _run(database_url, _months)
    old = [one for one in found if one["month"] < before and (one["partition"] or _rows_left(one))]
    if not old:
        click.echo(f"there is nothing before {before:%Y-%m}")
        return
    for month in old:
        click.echo(f"{month['month']:%Y-%m}: {_rows_left(month):,} rows")
    if dry_run:
        click.echo("nothing was dropped: this was a dry run")
        return
    if not yes:
        click.confirm(f"Drop the rows of {len(old)} months for good?", abort=True)
    for month in old:
        rows = _run(database_url, _drop, month["month"])
        click.echo(f"{month['month']:%Y-%m}: dropped {rows:,} rows")


def _rows_left(month: asyncpg.Record) -> int:
    left: int = month["requests"] - month["dropped_requests"]
    return left


def _last_month() -> dt.date:
    this_month = dt.datetime.now(dt.UTC).date().replace(day=1)
    return (this_month - dt.timedelta(days=1)).replace(day=1)


async def _months(conn: Conn) -> list[asyncpg.Record]:
    return list(await conn.fetch(PARTITIONS["months"]))


async def _drop(conn: Conn, month: dt.date) -> int:
    """Drop one month; somebody who is in the way is waited for, and then told."""
    for _ in range(ATTEMPTS - 1):
        try:
            return int(await conn.fetchval(PARTITIONS["drop_month"], month))
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            continue
    return int(await conn.fetchval(PARTITIONS["drop_month"], month))


def _run(database_url: str, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Do `work` on a connection. Whatever Postgres says becomes an error of the command line."""

    async def connected() -> T:
        url = await primary_of(database_url)
        conn = await asyncpg.connect(url, timeout=10, command_timeout=TIMEOUT_S)
        try:
            return await work(conn, *arguments)
        finally:
            await conn.close()

    try:
        return asyncio.run(connected())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
