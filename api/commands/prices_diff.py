"""Compares what is charged here with LiteLLM's price map and with what genai-prices works out
itself: `taximeter prices diff`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain, some_lines
from taximeter.api.commands.price_list_database import in_force
from taximeter.api.prices.calculator import compare_with_package
from taximeter.api.prices.diff import AGREEMENT, FINE, Difference, compare
from taximeter.api.prices.table import TableError, changes, read_table, write_table
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import PriceFileError, Pricer

GROUPS_SHOWN = 10


@click.command(
    help="Compare what is charged here, by the lists in force, with MAP, LiteLLM's "
    "model_prices_and_context_window.json, over generated usages of every model of it, and say "
    "where they differ. Without MAP the other side is the calculator of the installed "
    "genai-prices, over usage objects in every shape that its list knows. Exits with 1 where less "
    "than --least of the usages cost the same."
)
@click.argument(
    "file",
    metavar="[MAP]",
    required=False,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--all", "show_all", is_flag=True, help="Show every group and change.")
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%d"]),
    help="Prices of this moment, in UTC; of now by default.",
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1),
    default=AGREEMENT,
    show_default=True,
    help="The part of the usages that must cost the same.",
)
@click.option(
    "--since",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also say which prices of either changed since this table, which --save wrote.",
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the prices that were compared into this file.",
)
def diff(
    file: Path | None,
    show_all: bool,
    at: datetime | None,
    least: float,
    since: Path | None,
    save: Path | None,
) -> None:
    """Print the groups, most usages first, with a model as an example of each."""
    if file is None and (since is not None or save is not None):
        raise click.UsageError("--since and --save need MAP: they are about its prices")
    try:
        before = None if since is None else read_table(since)
        settings = PriceSettings()
        pricer = in_force(Pricer(credits_per_dollar=FINE, price_file=settings.price_file), settings)
        moment = None if at is None else at.replace(tzinfo=UTC)
        found = (
            compare_with_package(pricer, moment)
            if file is None
            else compare(pricer, file.read_bytes(), moment)
        )
        if save is not None:
            write_table(save, found.table)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    except (PriceFileError, TableError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{save} cannot be written: {error.strerror}") from None
    most = None if show_all else GROUPS_SHOWN
    own = f" after {pricer.file_version}" if pricer.file_version else ""
    other = "the calculator of genai-prices" if file is None else file.name
    click.echo(f"{pricer.list_version}{own}, beside {other}")
    models = "models of the list" if file is None else "models of the map are sold by tokens"
    for line in (*_summary(found, models), *some_lines(_groups(found), most, "--all shows them")):
        click.echo(line)
    if before is not None:
        changed = [f"  {line}" for line in changes(before, found.table)]
        click.echo(f"since {since}: {len(changed)} changes")
        for line in some_lines(changed, most, "--all shows them"):
            click.echo(line)
    if found.agreement < least:
        raise click.ClickException(
            f"{found.agreement:.2%} of the usages cost the same, less than {least:.2%}"
        )


def _summary(found: Difference, models: str) -> list[str]:
    rules = ", ".join(f"{rule} {count}" for rule, count in found.set_aside.most_common())
    return [
        f"{found.models} {models}; {found.only_map} are refused here",
        f"{found.compared} usages are priced by both; {found.set_aside.total()} are set aside",
        *([f"  ({rules})"] if rules else []),
        f"{found.agreement:.2%} of the former cost the same",
    ]


def _groups(found: Difference) -> list[str]:
    return [
        f"  {count:6}  {host:12}  {cause}, as {found.examples[host, cause]}"
        for (host, cause), count in found.causes.most_common()
    ]
