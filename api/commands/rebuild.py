"""Brings shards back from Postgres, on demand: `taximeter rebuild`."""

from __future__ import annotations

import asyncio

import click

from taximeter.api.commands.maintenance import FORCE, WAIT, maintenance_settings, reported
from taximeter.api.commands.progress import progress_bar
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.shards.drain import Rebuilt, rebuild_on_demand


@click.command(
    help="Bring live balances back from Postgres: drain, settle, open at a new epoch. "
    "For a Redis that has been repaired by hand, or whose balances nobody trusts. A Redis that "
    "lost data needs no command: the settler rebuilds it by itself."
)
@click.option("--shard", type=click.IntRange(0), help="Only this shard; all of them without it.")
@click.option(
    "--reason", default="asked for by an operator", show_default=True, help="For the logs."
)
@WAIT
@FORCE
def command(shard: int | None, reason: str, wait_s: float, force: bool) -> None:
    """Rebuild, and say what was found to be lost."""
    with reported():
        asyncio.run(_run(maintenance_settings(), shard, reason, wait_s, force))


async def _run(
    settings: StoreSettings, shard: int | None, reason: str, wait_s: float, force: bool
) -> None:
    async with open_stores(settings) as stores:
        shards = range(await count_shards(stores.pool)) if shard is None else [shard]
        if not shards:
            raise LookupError("there are no shards yet: the settler has never run")
        with progress_bar("shards") as tell:
            for nth, one in enumerate(shards):

                def says(now: str, nth: int = nth, one: int = one) -> None:
                    tell(nth, len(shards), f"shard {one}: {now}")

                says("")
                done = await rebuild_on_demand(
                    stores, one, reason=reason, wait_s=wait_s, force=force, says=says
                )
                click.echo(_line(done))


def _line(done: Rebuilt) -> str:
    line = f"shard {done.shard}: open at epoch {done.epoch}, {done.lost} events lost"
    if done.holds_kept:
        line += f", {done.holds_kept} open holds go on"
    if done.holds_dropped:
        line += f", {done.holds_dropped} holds of unknown accounts or damaged records dropped"
    return line
