"""`taximeter check`: prove the books."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import asyncpg
import click
from pydantic import ValidationError
from pydantic_settings import SettingsError
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from taximeter.api.commands.common import explain, in_one_line
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import age_alarm
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import PriceFileError
from taximeter.meter.pricing.editions import edition_at
from taximeter.meter.pricing.lists import PriceLists
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import open_stores
from taximeter.settler.proof.check import Acknowledged, CheckLimits, Report, acknowledge, check
from taximeter.settler.proof.reconcile import CouldNotLook

EXIT_VIOLATED = 1
EXIT_COULD_NOT_LOOK = 2
EXIT_ALARM = 3
NOTE_MAX = 1000


@click.group(
    invoke_without_command=True,
    help="Prove the books at a consistent cut, also while traffic runs. "
    "Exits 1 on any violation, 2 when the books could not be read, 3 when they are right and "
    "the price list in force is old.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Print every invariant with its figures."""
    if context.invoked_subcommand is not None:
        return
    with _looking(as_json):
        report, alarm = asyncio.run(_check_all(SettlerSettings(), PriceSettings()))
    if as_json:
        click.echo(json.dumps({**report.as_dict(), "alarms": alarm}, indent=2))
    else:
        print_report(report, Console())
        for one in alarm:
            Console().print(f"ALARM: {one}", style="red", markup=False)
    if not report.holds:
        sys.exit(EXIT_VIOLATED)
    sys.exit(EXIT_ALARM if alarm else 0)


@command.command(
    name="acknowledge",
    help="Write down that the losses which `check` reports as I4 are known, with a note of what "
    "was found and done. They stay visible, and no longer fail it; the next one does.",
)
@click.option("--note", required=True, help="What happened and what was done about it.")
def acknowledge_command(note: str) -> None:
    """Print what was acknowledged."""
    if not 1 <= len(note.strip()) <= NOTE_MAX:
        raise click.BadParameter(f"1 to {NOTE_MAX} characters", param_hint="--note")
    with _looking(as_json=False):
        done = asyncio.run(_acknowledge(SettlerSettings(), note))
    for one in done:
        place = f"shard {one.shard} epoch {one.epoch}"
        if one.what == "lost":
            click.echo(f"{place}: {one.events} lost events from {one.seq_first} on are known now")
        else:
            click.echo(f"{place}: {one.events} settled events without a charge are known now")
    if not done:
        click.echo("nothing to acknowledge: no loss is on record that was not known already")


async def _acknowledge(settings: SettlerSettings, note: str) -> list[Acknowledged]:
    async with open_stores(settings) as stores:
        return await acknowledge(stores, note)


async def _check_all(settings: SettlerSettings, prices: PriceSettings) -> tuple[Report, list[str]]:
    """The books, and what is wrong besides: an old price list, by what Postgres has in force."""
    report = await run_check(settings)
    lists = PriceLists(None)
    async with make_pool(
        settings.database_url,
        size_max=1,
        command_timeout_s=settings.database_timeout_s,
        wait_s=settings.database_timeout_s,
        server_settings={"application_name": "taximeter-check"},
        accept_loss=settings.database_durability == "none",
    ) as pool:
        try:
            found = await Editions(pool, None).read()
        except PriceFileError as error:
            return report, [f"prices: {error}"]
    lists.edition, _ = edition_at(found, time.time())
    alarm = age_alarm(lists.version, lists.dated, prices.price_age_max_days)
    if alarm is None:
        return report, []
    return report, [f"{alarm.text}; take a newer list over: taximeter prices refresh"]


async def run_check(settings: SettlerSettings) -> Report:
    """Open the stores, check, close them."""
    async with open_stores(settings) as stores:
        return await check(
            stores,
            CheckLimits(
                holds_limit=settings.reconcile_holds_limit,
                hold_grace_s=settings.hold_grace_s,
                entry_age_max_s=settings.entry_age_max_s,
                loss_alarm_s=settings.loss_alarm_s,
            ),
        )


def print_report(report: Report, console: Console) -> None:
    """A table for people: what was proved, by which figures, and what is wrong."""
    table = Table(title="The books", title_justify="left", show_lines=False)
    for column in ("", "what must hold", "figures"):
        table.add_column(column, overflow="fold")
    table.add_column("result", no_wrap=True)
    for one in report.invariants:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:,}" for name, value in one.figures.items()
        )
        result = "[green]holds[/]" if one.holds else "[red]VIOLATED[/]"
        table.add_row(one.name, one.title, figures, result)
    console.print(table)
    for one in report.invariants:
        for violation in one.violations:
            console.print(f"{one.name} violated: {violation}", style="red", markup=False)
        for reason in one.fires:
            console.print(f"  when this fires: {reason}", markup=False)
        if one.unjudged:
            console.print(f"{one.name}: {one.unjudged}", style="yellow", markup=False)
    verdict = "The books are right." if report.holds else "The books are NOT right."
    console.print(f"{verdict} (amounts in millicredits)")


@contextmanager
def _looking(as_json: bool) -> Iterator[None]:
    """Say in one line why the stores could not be read, and exit 2."""
    try:
        yield
    except CouldNotLook as error:
        _could_not_look(str(error), as_json)
    except (OSError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _could_not_look(in_one_line(error) or f"{type(error).__name__}: {error}", as_json)
    except (ValidationError, SettingsError) as error:
        _could_not_look(explain(error), as_json)


def _could_not_look(reason: str, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"holds": None, "could_not_look": reason}, indent=2))
    else:
        click.echo(f"could not look: {reason}", err=True)
    sys.exit(EXIT_COULD_NOT_LOOK)
