"""Changes the number of shards: `taximeter reshard`."""

from __future__ import annotations

import asyncio

import click

from taximeter.api.commands.maintenance import FORCE, WAIT, maintenance_settings, reported
from taximeter.api.commands.progress import Tell, progress_bar
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_stores
from taximeter.settler.shards.reshard import SHARDS_MAX, reshard
from taximeter.settler.status.nodes import shards_each, uneven


@click.command(
    help="Spread the organisations over another number of shards: drain all, settle all, change "
    "the number. Gateways, sidecars and settlers that run adapt by themselves. TAXIMETER_SHARDS, "
    "where it is set, must be changed before they are started again."
)
@click.option(
    "--shards", type=click.IntRange(1, SHARDS_MAX), required=True, help="How many there shall be."
)
@WAIT
@FORCE
def command(shards: int, wait_s: float, force: bool) -> None:
    """Change the number of shards."""
    with reported(), progress_bar("steps") as tell:
        before, warns = asyncio.run(_run(maintenance_settings(), shards, wait_s, force, tell))
    click.echo(
        f"{shards} shards, as before" if before == shards else f"{before} -> {shards} shards"
    )
    if warns:
        click.echo(f"warning: {warns}", err=True)


async def _run(
    settings: StoreSettings, shards: int, wait_s: float, force: bool, tell: Tell
) -> tuple[int, str | None]:
    """How many there were, and what is to be said of how they lie on the nodes of a cluster."""
    async with open_stores(settings) as stores:
        before = await reshard(stores, shards, wait_s=wait_s, force=force, tell=tell)
        return before, uneven(await shards_each(stores, shards))
