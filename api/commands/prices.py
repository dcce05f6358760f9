"""Shows what a model costs here, checks price files and imports them: `taximeter prices`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from taximeter.api.commands import price_lists, price_rounding
from taximeter.api.commands.common import explain
from taximeter.api.commands.price_imports import NOTES_SHOWN, report_of
from taximeter.api.commands.price_list_database import in_force
from taximeter.api.commands.prices_diff import diff
from taximeter.api.prices.followed import make_pricer
from taximeter.api.prices.shown import shown_rates
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import (
    TOKENS_MAX,
    PriceFileError,
    UnpricedModel,
    read_price_file,
)
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.litellm_map import read_map
from taximeter.meter.pricing.price_file import parse_price_file


@click.group(
    help="Show what a model costs, check a price file, import LiteLLM's price map; take newer "
    "price lists over."
)
def command() -> None:
    """Group them; those of the first kind work without any store."""


command.add_command(price_lists.refresh)
command.add_command(price_lists.history)
command.add_command(price_lists.back)
command.add_command(price_lists.withdraw_list, "withdraw")
command.add_command(price_lists.export)


@command.command(help="Show what MODEL is charged at, and where that is from.")
@click.argument("model")
@click.option("--provider", default=None, help="Whose price; found by the model's name by default.")
@click.option("--plan", default=None, help="At the markup of this plan.")
@click.option("--power-level", default=None, help="At the factor of this power level.")
def show(model: str, provider: str | None, plan: str | None, power_level: str | None) -> None:
    """Print the price of each kind, in dollars as published and in credits as charged."""
    try:
        settings = PriceSettings()
        pricer = in_force(make_pricer(settings), settings)
        sheet, listed = pricer.sheet(model, provider=provider)
        price = pricer.price(model, provider=provider, plan=plan, power_level=power_level)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    except (PriceFileError, UnpricedModel) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"model     {model}" + (f" of {price.provider}" if price.provider else ""))
    click.echo(f"identity  {price.identity}")
    click.echo(f"source    {listed.source}")
    click.echo(f"version   {price.version}")
    if price.dated:
        click.echo(f"dated     {price.dated}")
    if sheet.context_window is not None:
        click.echo(f"context   {sheet.context_window} tokens")
    click.echo(f"output    at most {price.max_output} tokens are held for")
    tier = None
    for one in shown_rates(sheet, pricer.credits_of_a_dollar(plan, power_level)):
        if one.service_tier != tier:
            tier = one.service_tier
            click.echo(f"\nservice tier {tier}:" if tier else "")
        above = "" if one.above_tokens is None else f" above {one.above_tokens}"
        click.echo(
            f"  {one.kind + above:28} {one.dollars:>12} dollars {one.credits:>14} credits"
            f"   for {one.unit}"
        )
    if sheet.tier_rule == "part" and any(rate.tiers for rate in sheet.rates.values()):
        click.echo("  (only the tokens above cost the price of the tier)")
    if price.is_free:
        click.echo("It costs nothing. A charge of 0 is recorded for each request.")
    if len(listed.sheets) > 1:
        click.echo("At other times it costs other prices.")
    for name in sheet.not_metered:
        click.echo(f"NOT METERED: the publisher also charges for {name}")


@command.command(help="Check that FILE can be used as the price file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Exit 1 with every mistake, its line, its model and its field."""
    try:
        found = read_price_file(file)
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    count = len(found.models) + len(found.patterns)
    click.echo(f"{count} models, version {found.version}")


@command.command(
    "import",
    help="Turn LiteLLM's model_prices_and_context_window.json into a price file. What it prices "
    "that cannot be metered here is reported, and stands in the file as not_metered.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("prices.toml"),
    show_default=True,
    help="The price file to write; one that is there is replaced.",
)
@click.option("--provider", multiple=True, help="Only models of this litellm_provider; repeatable.")
@click.option("--with-free", is_flag=True, help="Also models whose every price is 0.")
@click.option("--all", "show_all", is_flag=True, help="Show the whole report, however long it is.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the whole report into this file, a line for each model.",
)
def import_map(
    file: Path,
    output: Path,
    provider: tuple[str, ...],
    with_free: bool,
    show_all: bool,
    report: Path | None,
) -> None:
    """Write the price file whole, or not at all."""
    try:
        found = read_map(file.read_bytes(), providers=provider, with_free=with_free)
        text = price_file_text(
            found.models, f"Imported from {file.name}; dollars, see docs/prices.md."
        )
        if not found.models:
            raise PriceFileError([f"{file.name} has no model that could be priced"])
        parse_price_file(text.encode(), "prices.toml")
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    _write(output, text)
    click.echo(f"{len(found.models)} models written to {output}")
    if report is not None:
        _write(report, "\n".join(report_of(found, None)) + "\n")
        click.echo(f"the whole report is in {report}")
    for line in report_of(found, None if show_all else NOTES_SHOWN):
        click.echo(line)


def _write(path: Path, text: str) -> None:
    made = path.with_name(f".{path.name}.new")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


@command.command(
    help="Show at which models a small request costs a tenth more, or more than that, because a "
    "charge is rounded up to a whole millicredit: for choosing TAXIMETER_CREDITS_PER_DOLLAR."
)
@click.option("--prompt-tokens", type=click.IntRange(0, TOKENS_MAX), default=500, show_default=True)
@click.option("--output-tokens", type=click.IntRange(0, TOKENS_MAX), default=100, show_default=True)
@click.option(
    "--credits-per-dollar",
    type=float,
    default=None,
    help="As if this were set; TAXIMETER_CREDITS_PER_DOLLAR by default.",
)
@click.option("--all", "show_all", is_flag=True, help="Show every model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rounding(
    prompt_tokens: int,
    output_tokens: int,
    credits_per_dollar: float | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Print what it adds, the most first."""
    given = {} if credits_per_dollar is None else {"credits_per_dollar": credits_per_dollar}
    try:
        settings = PriceSettings(**given)  # type: ignore[arg-type]  # It is checked there.
        pricer = in_force(make_pricer(settings), settings)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    price_rounding.report(
        pricer,
        settings.credits_per_dollar,
        prompt_tokens,
        output_tokens,
        show_all=show_all,
        as_json=as_json,
    )


command.add_command(diff)
