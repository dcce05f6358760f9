"""Defines the options that the commands about price lists share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from taximeter.api.prices.changes import (
    CHECKS,
)

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
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show what it would change, and change nothing."
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
        if found > today():
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a list is to be taken over: what the options say that `offer_options` adds."""

    database_url: str
    at: datetime | None
    accept: tuple[str, ...]
    dry_run: bool
    yes: bool
    show_all: bool
    report: Path | None
    as_json: bool
    by: str | None


def offer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of taking a list over; the command has them together, as `terms`."""

    @wraps(command)
    def with_terms(**given: Any) -> None:
        names = [one.name for one in fields(Terms)]
        command(
            **{name: one for name, one in given.items() if name not in names},
            terms=Terms(**{name: given[name] for name in names}),
        )

    for option in (DATABASE, BY, JSON, REPORT, ALL, YES, DRY_RUN, ACCEPT, AT):
        with_terms = option(with_terms)
    return with_terms


def today() -> date:
    """The day in UTC."""
    return datetime.now(UTC).date()
