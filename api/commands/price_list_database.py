"""Runs commands about price lists against the database, and prices by the lists in force."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
import click

from taximeter.api.commands.common import in_one_line
from taximeter.api.prices.editions import Editions
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import PriceFileError, Pricer
from taximeter.meter.pricing.editions import (
    Edition,
)
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.stores import Pool

T = TypeVar("T")


def run_with_pool(database_url: str, work: Callable[[Pool], Awaitable[T]]) -> T:
    """Run one command with a pool of connections; what goes wrong is one line."""

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
    """A pool for one command. Raises UnsafeDatabase as the services do."""
    async with make_pool(
        database_url,
        size_max=2,
        command_timeout_s=60.0,
        wait_s=10.0,
        accept_loss=os.environ.get("TAXIMETER_DATABASE_DURABILITY") == "none",
        server_settings={"application_name": "taximeter-prices"},
    ) as pool:
        yield pool
