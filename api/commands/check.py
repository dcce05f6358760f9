"""Proves the books: `taximeter check`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from typing import NoReturn

import asyncpg
import click
from pydantic import ValidationError
from pydantic_settings import SettingsError
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from taximeter.api.commands.common import explain, in_one_line
from taximeter.api.commands.progress import Tell, progress_bar
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import age_alarm
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import PriceFileError
from taximeter.meter.pricing.editions import edition_at
from taximeter.meter.pricing.lists import PriceLists
from taximeter.settler.archive.places import Place, open_place
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.settings import SettlerSettings, check_export_url
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.exports.by_itself import exporting
from taximeter.settler.exports.compare import Compared, compare_exports
from taximeter.settler.proof.check import Acknowledged, CheckLimits, Report, acknowledge, check
from taximeter.settler.proof.reconcile import CouldNotLook
from taximeter.settler.proof.seals import SQL, STATEMENT_TIMEOUT_S, Told, accept, alone

EXIT_VIOLATED = 1
EXIT_COULD_NOT_LOOK = 2
EXIT_ALARM = 3
NOTE_MAX = 1000
_VERDICTS = {
    True: "The books are right.",
    False: "The books are NOT right.",
    None: "What could be read of the books is right; the rest is not proved.",
}


@click.group(
    invoke_without_command=True,
    help="Prove the books at a consistent cut, also while traffic runs. Rows that a settler has "
    "sealed are not read again: --full does. "
    "Exits 1 on any violation, 2 when the books, or an archive of them, could not be read, 3 when "
    "they are right and the price list in force is old.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--archives", is_flag=True, help="Read every archived file, not only the manifests.")
@click.option("--full", is_flag=True, help="Read every row, and trust no seal.")
@click.option(
    "--knows",
    metavar="N:LINK",
    help="A seal as it was told before (in a log, or by this command): fail when the chain has "
    "another one under its number.",
)
@click.option(
    "--exports",
    is_flag=False,
    flag_value="",
    metavar="[URL]",
    help="Compare the exports at TAXIMETER_EXPORT_URL, or at this URL, with the books as well, and "
    "read every file of them.",
)
@click.pass_context
def command(
    context: click.Context,
    as_json: bool,
    archives: bool,
    full: bool,
    knows: str | None,
    exports: str | None,
) -> None:
    """Print every invariant with its figures."""
    if context.invoked_subcommand is not None:
        return
    compared = None
    with _looking(as_json):
        settings = SettlerSettings()
        place = None if exports is None else _exports_place(settings, exports)
        known = None if knows is None else _known_seal(knows)
        report, alarm = asyncio.run(
            _check_all(settings, PriceSettings(), archives, full, as_json, known)
        )
        if place is not None:
            with progress_bar("exported days") as tell:
                compared = asyncio.run(_compare_exports(settings, place, tell))
    if as_json:
        found = {} if compared is None else {"exports": asdict(compared)}
        click.echo(json.dumps({**report.as_dict(), **found, "alarms": alarm}, indent=2))
    else:
        print_report(report, Console())
        if compared is not None:
            _print_exports(compared)
        for one in alarm:
            Console().print(f"ALARM: {one}", style="red", markup=False)
    if not report.holds or (compared is not None and compared.wrong):
        sys.exit(EXIT_VIOLATED)
    if report.proved is None or (compared is not None and compared.unread):
        sys.exit(EXIT_COULD_NOT_LOOK)
    sys.exit(EXIT_ALARM if alarm else 0)


def _exports_place(settings: SettlerSettings, given: str) -> Place:
    """Where the exports are. Raises click errors."""
    url = given or settings.export_url
    if url is None:
        raise click.UsageError(
            "say where the exports are: --exports URL or TAXIMETER_EXPORT_URL, a folder or"
            " s3://bucket/prefix"
        )
    try:
        return open_place(check_export_url(url))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--exports") from error


async def _compare_exports(settings: SettlerSettings, place: Place, tell: Tell) -> Compared:
    async with (
        exporting(settings) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await compare_exports(conn, place, lambda done, days: tell(done, days, ""))


def _print_exports(compared: Compared) -> None:
    console = Console()
    for one in compared.wrong:
        console.print(f"export wrong: {one}", style="red", markup=False)
    for one in compared.unread:
        console.print(f"export not looked at: {one}", style="yellow", markup=False)
    if not compared.wrong and not compared.unread:
        console.print(
            f"The exports of {compared.days:,} days are right: {compared.rows:,} rows.",
            markup=False,
        )


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


@command.command(
    name="accept",
    help="Seal the days that I16 names as they are now, with a note of what was found and done. "
    "What was sealed before stays on record; the next change is found again.",
)
@click.option("--note", required=True, help="What was changed and why it stays.")
def accept_command(note: str) -> None:
    """Print what was accepted."""
    if not 1 <= len(note.strip()) <= NOTE_MAX:
        raise click.BadParameter(f"1 to {NOTE_MAX} characters", param_hint="--note")
    with _looking(as_json=False):
        number, days = asyncio.run(_accept(SettlerSettings(), note.strip()))
    if number:
        click.echo(f"seal {number}: {', '.join(map(str, days))} as they are now")
    else:
        click.echo("nothing to accept: no sealed day was found altered")


async def _accept(settings: SettlerSettings, note: str) -> tuple[int, list[date]]:
    async with open_stores(settings) as stores, alone(stores.pool) as conn:
        return await accept(conn, note)


def _known_seal(text: str) -> tuple[int, str]:
    number, _, link = text.partition(":")
    if not (number.isdigit() and int(number) <= 2**63 - 1 and re.fullmatch(r"[0-9a-f]{64}", link)):
        raise click.BadParameter(
            "not a number and 64 hexadecimal digits, such as 12:9f86…", param_hint="--knows"
        )
    return int(number), link


async def _check_all(
    settings: SettlerSettings,
    prices: PriceSettings,
    archives: bool,
    full: bool,
    as_json: bool,
    known: tuple[int, str] | None,
) -> tuple[Report, list[str]]:
    """The books, and what is wrong besides: an old price list, by what Postgres has in force."""
    report = await run_check(
        settings, archives=archives, full=full, console=None if as_json else Console(stderr=True),
        known=known,
    )  # fmt: skip
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


async def run_check(
    settings: SettlerSettings,
    *,
    archives: bool = False,
    full: bool = False,
    console: Console | None = None,
    known: tuple[int, str] | None = None,
) -> Report:
    """Open the stores, check, close them. `archives`: read every archived file. `full`: read every
    row, and show on `console` how far that is, where it is a terminal. `known`: number and link of
    a seal that the chain must have.
    """
    place = None if settings.archive_url is None else open_place(settings.archive_url)
    # A query of a full proof, or of the first, reads every row there is.
    async with open_stores(settings, statement_s=STATEMENT_TIMEOUT_S) as stores:
        if not full or console is None:
            return await _run(stores, settings, place, archives, full, None, known)
        rows = (await stores.pool.fetch(SQL["figures"]))[0]["rows"]
        with progress_bar("sealed rows", console) as tell:
            done = 0

            def told(month: date, proved: int) -> None:
                nonlocal done
                done += proved
                tell(done, rows, f"{month:%Y-%m}")

            return await _run(stores, settings, place, archives, full, told, known)


async def _run(
    stores: Stores,
    settings: SettlerSettings,
    place: Place | None,
    archives: bool,
    full: bool,
    told: Told | None,
    known: tuple[int, str] | None,
) -> Report:
    report = await check(
        stores,
        CheckLimits(
            holds_limit=settings.reconcile_holds_limit,
            hold_grace_s=settings.hold_grace_s,
            entry_age_max_s=settings.entry_age_max_s,
            loss_alarm_s=settings.loss_alarm_s,
            archived_files=archives,
            full=full,
        ),
        place,
        told,
    )
    if known is not None:
        number, link = known
        if (found := await stores.pool.fetchval(SQL["link_of"], number)) != link:
            has = "has no such seal" if found is None else f"has {found}"
            report["I16"].violate(
                f"seal {number} was {link}, and the chain {has}: it was written anew"
            )
    return report


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
        if one.holds and one.unread:
            result = "[yellow]not proved[/]"
        table.add_row(one.name, one.title, figures, result)
    console.print(table)
    for one in report.invariants:
        for violation in one.violations:
            console.print(f"{one.name} violated: {violation}", style="red", markup=False)
        for reason in one.fires:
            console.print(f"  when this fires: {reason}", markup=False)
        if one.unjudged:
            console.print(f"{one.name}: {one.unjudged}", style="yellow", markup=False)
        for reason in one.unread:
            console.print(f"{one.name} is not proved: {reason}", style="yellow", markup=False)
    if report.sealed is not None and report.sealed.n:
        sealed = report.sealed
        console.print(
            f"Sealed until {sealed.sealed_until:%Y-%m-%d %H:%M} UTC. Keep the last seal elsewhere:"
            f" {sealed.n}:{sealed.link.hex()}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    verdict = _VERDICTS[report.proved]
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
