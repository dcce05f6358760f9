"""`taximeter prices refresh`, `history`, `back`, `withdraw`, `export`: price lists taken over."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import click
from asyncpg import Record
from pydantic import ValidationError

from taximeter.api.commands.common import explain, in_one_line
from taximeter.api.prices.changes import (
    CHECKS,
    Changes,
    Problem,
    changes_between,
    lines_of,
    problems_of,
)
from taximeter.api.prices.editions import Editions, NewList, export_text, take_over, withdraw
from taximeter.api.settings.prices import PriceSettings
from taximeter.api.sql import PRICES
from taximeter.meter.pricing import PriceFileError, Pricer, read_price_file
from taximeter.meter.pricing.editions import (
    VERSION_LENGTH_MAX,
    Edition,
    digest_of,
    edition_at,
    read_edition,
    unpacked,
)
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.lists import CHECKED_PACKAGE, PriceLists
from taximeter.meter.pricing.litellm_map import read_map
from taximeter.meter.pricing.package_list import list_text, read_list
from taximeter.meter.pricing.price_file import FILE_BYTES_MAX, parse_price_file
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.stores import Pool

T = TypeVar("T")
SHOWN: Final = 20
DIGEST_SHOWN: Final = 12

DATABASE = click.option(
    "--database-url",
    envvar=["TAXIMETER_DATABASE_URL", "TAXIMETER_MIGRATE_DATABASE_URL"],
    required=True,
    show_envvar=True,
    help="The database, as the user of the API or as its owner.",
)
BY = click.option(
    "--by", default=None, help="Who does this, for the history; by default who is logged in."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
ALL = click.option("--all", "show_all", is_flag=True, help="Show every line, however many.")
REPORT = click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the whole comparison into this file; as JSON if its name ends so.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask before taking it over.")


class Moment(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions alone.
    """A moment with its time zone; becomes a datetime."""

    name = "MOMENT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            self.fail(
                f"{value!r} is no moment with a time zone, such as 2026-12-01T00:00Z", param, ctx
            )
        return found


class Day(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions alone.
    """A day that has come; becomes a date."""

    name = "YYYY-MM-DD"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> date:
        try:
            found = date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no day, such as 2026-11-30", param, ctx)
        if found > _today():
            self.fail(f"{value} has not come yet", param, ctx)
        return found


AT = click.option(
    "--at",
    type=Moment(),
    default=None,
    help="From when on it is in force, such as 2026-12-01T00:00Z; now by default.",
)
ACCEPT = click.option(
    "--accept",
    multiple=True,
    metavar="CHECK|MODEL",
    help="Take it over though this check says that it is wrong, or this model; repeatable. Checks: "
    + "; ".join(f"{name} ({what})" for name, what in CHECKS.items())
    + ".",
)


@click.command(
    help="Take over a newer price list: show what it changes, refuse what is obviously broken, and "
    "let it be in force from a moment on, in every process, without a restart. FILE is a price "
    "file of ours, LiteLLM's model_prices_and_context_window.json or the data.json of "
    "genai-prices; without it, the list of the installed package is taken."
)
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@AT
@click.option(
    "--dated",
    type=Day(),
    default=None,
    help="The day of which its prices are, from which their age is counted; by default the day on "
    "which FILE was written.",
)
@ACCEPT
@click.option("--dry-run", is_flag=True, help="Show what it would change, and change nothing.")
@YES
@ALL
@REPORT
@JSON
@BY
@DATABASE
def refresh(
    file: Path | None,
    at: datetime | None,
    dated: date | None,
    accept: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    show_all: bool,
    report: Path | None,
    as_json: bool,
    by: str | None,
    database_url: str,
) -> None:
    """Nothing is taken over unless it is confirmed, or `--yes` says so."""
    try:
        new = _from_package(dated) if file is None else _from_file(file, dated)
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    _offer(
        database_url,
        new,
        at=at,
        accept=accept,
        dry_run=dry_run,
        yes=yes,
        show_all=show_all,
        report=report,
        as_json=as_json,
        by=by,
        back_to=None,
    )


@click.command(
    help="Go back to list NUMBER of the history: it is in force again from a moment on, as a list "
    "with a number of its own. 0 means the list of the installed package."
)
@click.argument("number", type=click.IntRange(min=0))
@AT
@ACCEPT
@click.option("--dry-run", is_flag=True, help="Show what it would change, and change nothing.")
@YES
@ALL
@REPORT
@JSON
@BY
@DATABASE
def back(
    number: int,
    at: datetime | None,
    accept: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    show_all: bool,
    report: Path | None,
    as_json: bool,
    by: str | None,
    database_url: str,
) -> None:
    """As `refresh`, with an older list."""
    new = _from_package(None) if number == 0 else _run(database_url, lambda p: _kept(p, number))
    if new is None:
        raise click.ClickException(f"there is no list {number}; `taximeter prices history` has all")
    _offer(
        database_url,
        new,
        at=at,
        # Who goes back knows that it is an older one.
        accept=(*accept, "older"),
        dry_run=dry_run,
        yes=yes,
        show_all=show_all,
        report=report,
        as_json=as_json,
        by=by,
        back_to=number or None,
    )


@click.command(
    help="Show every price list that was taken over: from when on, by whom, from where. With "
    "NUMBER, that one alone; its prices go to --output, in the form in which they were read."
)
@click.argument("number", required=False, type=click.IntRange(min=1))
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write its prices here."
)
@JSON
@DATABASE
def history(number: int | None, output: Path | None, as_json: bool, database_url: str) -> None:
    """A line a list, the oldest first."""
    if output is not None and number is None:
        raise click.UsageError("--output needs the NUMBER of a list")
    rows = _run(database_url, lambda pool: pool.fetch(PRICES["history"]))
    if number is not None:
        rows = [row for row in rows if row["id"] == number]
        if not rows:
            raise click.ClickException(f"there is no list {number}")
    if output is not None and number is not None:
        kept = _run(database_url, lambda pool: _kept(pool, number))
        assert kept is not None, "lists are never deleted"
        _write(output, kept.content)
    if as_json:
        click.echo(json.dumps([_as_dict(row) for row in rows], indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    if not rows:
        click.echo("no list was taken over: the installed package is in force")


@click.command(
    help="Do not begin with list NUMBER, which has not begun. Until a minute before its moment."
)
@click.argument("number", type=click.IntRange(min=1))
@BY
@DATABASE
def withdraw_list(number: int, by: str | None, database_url: str) -> None:
    """Print what does not begin now."""

    async def run(pool: Pool) -> str | None:
        async with pool.acquire() as conn:
            return await withdraw(conn, number, by=_who(by))

    version = _run(database_url, run)
    if version is None:
        raise click.ClickException(
            f"list {number} is none that begins in more than a minute; `taximeter prices history` "
            "has all, and `taximeter prices back` goes back to an older one"
        )
    click.echo(f"list {number}, {version}, will not begin")


@click.command(
    help="Write the lists in force and to come into FILE, for processes without a database, which "
    "follow it (TAXIMETER_PRICE_LISTS_FILE)."
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@DATABASE
def export(file: Path, database_url: str) -> None:
    """Write the file whole, or not at all."""

    async def run(pool: Pool) -> str:
        async with pool.acquire() as conn:
            return await export_text(conn)

    _write(file, _run(database_url, run).encode())
    click.echo(f"the lists in force and to come are in {file}")


def _offer(
    database_url: str,
    new: NewList,
    *,
    at: datetime | None,
    accept: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    show_all: bool,
    report: Path | None,
    as_json: bool,
    by: str | None,
    back_to: int | None,
) -> None:
    """Show what a list changes, and take it over."""
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json needs --yes or --dry-run: it does not ask")
    now = datetime.now(UTC)
    if at is not None and at <= now:
        raise click.BadParameter(f"{at.isoformat()} has passed", param_hint="--at")
    editions = _run(database_url, lambda pool: Editions(pool, None).read())
    in_force, changes = _compared(editions, new, at or now)
    problems = problems_of(
        changes,
        dated=new.dated,
        in_force_dated=in_force.dated,
        is_same=_digest(in_force) == new.digest,
    )
    refused = [one for one in problems if one.check not in accept and one.model not in accept]
    found: dict[str, Any] = {
        "in_force": {"version": in_force.version, "dated": _iso(in_force.dated)},
        "new": {"version": new.version, "dated": new.dated.isoformat(), "digest": new.digest},
        "changes": changes.as_dict(),
        "problems": [one._asdict() for one in problems],
        "refused": bool(refused),
        "taken_over": None,
    }
    if report is not None:
        is_json = report.suffix == ".json"
        text = json.dumps(found, indent=2) if is_json else "\n".join(_whole(changes, problems))
        _write(report, f"{text}\n".encode())
    if not as_json:
        _show(in_force, new, changes, show_all=show_all, report=report)
    if refused:
        _refuse(refused, found, as_json=as_json)
    if dry_run or not (yes or click.confirm(_question(at))):
        click.echo(json.dumps(found, indent=2) if as_json else "nothing was taken over")
        return

    async def run(pool: Pool) -> tuple[int, datetime]:
        async with pool.acquire() as conn:
            return await take_over(conn, new, starts_at=at, by=_who(by), back_to=back_to)

    number, starts_at = _run(database_url, run)
    begins = starts_at.astimezone(UTC).isoformat()
    if as_json:
        click.echo(json.dumps({**found, "taken_over": {"number": number, "starts_at": begins}}))
    else:
        click.echo(f"list {number} is in force from {begins} on; processes look every few seconds")


def _compared(editions: list[Edition], new: NewList, at: datetime) -> tuple[PriceLists, Changes]:
    """What would be in force then without the new list, and what that changes."""
    before, after = PriceLists(None), PriceLists(None)
    before.edition, _ = edition_at(editions, at.timestamp())
    after.edition = Edition(0, new.version, new.dated, at.timestamp(), new.digest, new.prices)
    return before, changes_between(before, after, at)


def _digest(lists: PriceLists) -> str:
    edition = lists.edition
    if edition is None:
        return digest_of(list_text(PublishedPrices().providers()))
    return edition.digest


def _show(
    in_force: PriceLists, new: NewList, changes: Changes, *, show_all: bool, report: Path | None
) -> None:
    click.echo(f"in force  {in_force.version}, of {_iso(in_force.dated) or 'an unknown day'}")
    click.echo(f"new       {new.version}, of {new.dated}")
    click.echo(
        f"{len(changes.added)} models added, {len(changes.removed)} removed, "
        f"{len(changes.changed)} changed, {changes.same} the same"
    )
    lines = list(lines_of(changes))
    shown = lines if show_all else lines[:SHOWN]
    for line in shown:
        click.echo(line)
    if len(lines) > len(shown):
        where = f"{report} has them" if report else "--all shows them, --report FILE writes them"
        click.echo(f"  and {len(lines) - len(shown)} more; {where}")
    try:
        own = PriceSettings().price_file
        file = None if own is None else read_price_file(own)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    if own is not None and file is not None:
        count = len(file.models) + len(file.patterns)
        click.echo(f"{count} models are priced by your own file, {own.name}, all the same")


def _whole(changes: Changes, problems: Iterable[Problem]) -> list[str]:
    return [*lines_of(changes), *(f"  {one.check:8} {one.text}" for one in problems)]


def _refuse(refused: list[Problem], found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        raise SystemExit(1)
    lines = [f"{one.text} ({one.check})" for one in refused[:SHOWN]]
    if len(refused) > SHOWN:
        lines.append(f"and {len(refused) - SHOWN} more; --report FILE writes them down")
    checks = sorted({one.check for one in refused})
    how = " ".join(f"--accept {check}" for check in checks)
    raise click.ClickException(
        "this list looks broken, and nothing was taken over:\n  "
        + "\n  ".join(lines)
        + f"\nIf it is right all the same: {how}, or --accept with the name of a model"
    )


def _question(at: datetime | None) -> str:
    return f"Take it over from {'now' if at is None else at.isoformat()} on?"


def _from_package(dated: date | None) -> NewList:
    prices = PublishedPrices()
    lists = PriceLists(None)
    known = lists.dated if prices.version == CHECKED_PACKAGE else None
    if dated is None and known is None:
        raise click.UsageError(
            f"{prices.version} does not say of which day its prices are: give --dated, the day on "
            "which it was published"
        )
    providers = list(prices.providers())
    content = list_text(providers)
    day = dated or known
    assert day is not None, "one of them was given"
    return NewList(
        "package",
        prices.version,
        "installed package",
        digest_of(content),
        content,
        sum(len(one.models) for one in providers),
        day,
        prices,
    )


def _from_file(path: Path, dated: date | None) -> NewList:
    """A file in any of the three forms. Raises PriceFileError."""
    try:
        content = path.read_bytes()
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except OSError as error:
        raise PriceFileError([f"{path.name} cannot be read: {error.strerror}"]) from None
    if len(content) > FILE_BYTES_MAX:
        raise PriceFileError([f"{path.name} must have at most {FILE_BYTES_MAX} bytes"])
    if dated is None and written > _today():
        raise PriceFileError(
            [f"{path.name} was written on {written}, which has not come yet: give --dated"]
        )
    day, source = dated or written, path.name[:256]
    digest = digest_of(content)
    name = f"{path.name[:64]} {digest[:DIGEST_SHOWN]}"
    is_list = path.suffix == ".json" and content.lstrip()[:1] == b"["
    if is_list:
        providers = read_list(content)
        count = sum(len(one.models) for one in providers)
        version = f"genai-prices {name}"
        prices = PublishedPrices(providers, version)
        return NewList("package", version, source, digest, content, count, day, prices)
    if path.suffix == ".json" and not _is_ours(content):
        models = read_map(content).models
        if not models:
            raise PriceFileError([f"{path.name} has no model that could be priced"])
        title = f"Imported from {path.name}; dollars, see docs/prices.md."
        content = price_file_text(models, title).encode()
        file = parse_price_file(content, "list.toml")
        version = name
    else:
        file = read_price_file(path)
        version = file.version[:VERSION_LENGTH_MAX]
    count = len(file.models) + len(file.patterns)
    if not count:
        raise PriceFileError([f"{path.name} has no models"])
    return NewList("file", version, source, digest_of(content), content, count, day, file)


def _is_ours(content: bytes) -> bool:
    """Whether a JSON file is a price file of ours: those have their models in a table."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return True  # Whoever reads it says what is wrong.
    return isinstance(document, dict) and set(document) <= {"version", "models"}


async def _kept(pool: Pool, number: int) -> NewList | None:
    rows = await pool.fetch(PRICES["history"])
    row = next((one for one in rows if one["id"] == number), None)
    if row is None:
        return None
    kept = await pool.fetchrow(PRICES["content"], number)
    assert kept is not None, "lists are never deleted"
    content = unpacked(kept["content"], row["digest"])
    prices = read_edition(row["kind"], row["version"], content)
    return NewList(
        row["kind"],
        row["version"],
        row["source"],
        row["digest"],
        content,
        row["models"],
        row["dated"],
        prices,
    )


def _run(database_url: str, work: Callable[[Pool], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_pool(database_url) as pool:
            return await work(pool)

    try:
        return asyncio.run(run())
    except (PriceFileError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise click.ClickException(in_one_line(error) or str(error)) from None


def in_force(pricer: Pricer, settings: PriceSettings) -> Pricer:
    """The pricer, as the services price now: by the lists of the database or of the file, if one is
    named. Says so on stderr where they cannot be read, and goes on by the installed package.
    """
    is_named = "database_url" in settings.model_fields_set
    if not is_named and settings.price_lists_file is None:
        return pricer

    async def read() -> list[Edition]:
        if settings.price_lists_file is not None:
            return await Editions(None, settings.price_lists_file).read()
        async with open_pool(settings.database_url) as pool:
            return await Editions(pool, None).read()

    try:
        pricer.follow(asyncio.run(read()))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        click.echo(
            f"by the installed package, since the lists in force cannot be read: {error}", err=True
        )
    return pricer


@asynccontextmanager
async def open_pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool for one command."""
    async with make_pool(
        database_url,
        size_max=2,
        command_timeout_s=60.0,
        wait_s=10.0,
        server_settings={"application_name": "taximeter-prices"},
    ) as pool:
        yield pool


def _line(row: Record) -> str:
    state = "in force" if row["in_force"] else "withdrawn" if row["withdrawn_at"] else ""
    back_to = f", back to {row['back_to']}" if row["back_to"] is not None else ""
    begins = row["starts_at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        f"{row['id']:>4}  from {begins}  {row['version']} of {row['dated']}, {row['models']} "
        f"models, {row['digest'][:DIGEST_SHOWN]}, from {row['source']}, by {row['created_by']}"
        f"{back_to}" + (f"  [{state}]" if state else "")
    )


def _as_dict(row: Record) -> dict[str, Any]:
    found = dict(row)
    found["number"] = found.pop("id")
    return {name: one.isoformat() if isinstance(one, date) else one for name, one in found.items()}


def _who(by: str | None) -> str:
    name = (by if by is not None else getpass.getuser()).strip()
    if not 1 <= len(name) <= 255 or not name.isprintable():
        raise click.BadParameter("must be a name of 1 to 255 characters", param_hint="--by")
    return name


def _write(path: Path, content: bytes) -> None:
    made = path.with_name(f".{path.name}.new")
    try:
        made.write_bytes(content)
        made.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _today() -> date:
    return datetime.now(UTC).date()


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
