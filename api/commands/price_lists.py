"""Takes price lists over, shows them and goes back: `taximeter prices refresh`, `history`, `back`,
`withdraw`, `export`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date
from pathlib import Path
from typing import Any

import click
from asyncpg import Record

from taximeter.api.commands.price_list_database import run_with_pool
from taximeter.api.commands.price_list_offer import offer, who_does_it, write_whole
from taximeter.api.commands.price_list_options import (
    BY,
    DATABASE,
    JSON,
    Day,
    Terms,
    offer_options,
)
from taximeter.api.commands.price_list_sources import (
    DIGEST_SHOWN,
    from_file,
    from_package,
    kept_list,
)
from taximeter.api.prices.editions import export_text, withdraw
from taximeter.api.sql import PRICES
from taximeter.meter.pricing import PriceFileError
from taximeter.settler.books.stores import Pool


@click.command(
    help="Take over a newer price list: show what it changes, refuse what is obviously broken, and "
    "let it be in force from a moment on, in every process, without a restart. FILE is a price "
    "file of ours, LiteLLM's model_prices_and_context_window.json or the data.json of "
    "genai-prices; without it, the list of the installed package is taken."
)
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--dated",
    type=Day(),
    default=None,
    help="The day of which its prices are, from which their age is counted; by default the one "
    "that FILE says (`dated`), else the day on which it was written.",
)
@offer_options
def refresh(file: Path | None, dated: date | None, terms: Terms) -> None:
    """Nothing is taken over unless it is confirmed, or `--yes` says so."""
    try:
        new = from_package(dated) if file is None else from_file(file, dated)
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    offer(new, terms, back_to=None)


@click.command(
    help="Go back to list NUMBER of the history: it is in force again from a moment on, as a list "
    "with a number of its own. 0 means the list of the installed package."
)
@click.argument("number", type=click.IntRange(min=0))
@offer_options
def back(number: int, terms: Terms) -> None:
    """As `refresh`, with an older list."""
    new = (
        from_package(None)
        if number == 0
        else run_with_pool(terms.database_url, lambda p: kept_list(p, number))
    )
    if new is None:
        raise click.ClickException(f"there is no list {number}; `taximeter prices history` has all")
    # Who goes back knows that it is an older one.
    terms = replace(terms, accept=(*terms.accept, "older"))
    offer(new, terms, back_to=number or None)


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
    rows = run_with_pool(database_url, lambda pool: pool.fetch(PRICES["history"]))
    if number is not None:
        rows = [row for row in rows if row["id"] == number]
        if not rows:
            raise click.ClickException(f"there is no list {number}")
    if output is not None and number is not None:
        kept = run_with_pool(database_url, lambda pool: kept_list(pool, number))
        assert kept is not None, "lists are never deleted"
        write_whole(output, kept.content)
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
            return await withdraw(conn, number, by=who_does_it(by))

    version = run_with_pool(database_url, run)
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

    write_whole(file, run_with_pool(database_url, run).encode())
    click.echo(f"the lists in force and to come are in {file}")


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
