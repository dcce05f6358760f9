"""Runs a command of the database's owner in one transaction, and says who runs it."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import click

from taximeter.settler.books.connections import primary_of

T = TypeVar("T")


def operator() -> str:
    """Who runs this, as the machine says; the audit log has the database's user beside it."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError, ImportError):
        return "operator"


def as_owner(database_url: str, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Do `work` in one transaction. Whatever Postgres says becomes an error of one line."""

    async def connected() -> T:
        url = await primary_of(database_url)
        conn = await asyncpg.connect(url, timeout=10, command_timeout=30)
        try:
            async with conn.transaction():
                return await work(conn, *arguments)
        finally:
            await conn.close()

    try:
        return asyncio.run(connected())
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        raise click.ClickException(
            "the database lacks our tables: run `taximeter migrate`"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise click.ClickException(
            f"only the owner of the database may: set TAXIMETER_MIGRATE_DATABASE_URL ({error})"
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(
            f"the Postgres of --database-url cannot be used: {str(error) or type(error).__name__}"
        ) from None
