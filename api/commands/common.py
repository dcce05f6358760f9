"""What several commands share."""

from __future__ import annotations

import asyncio

import click
from pydantic import ValidationError

from taximeter.settler.connecting import UnsafeDatabase, check_database
from taximeter.settler.settings import StoreSettings


def explain(error: ValidationError, prefix: str = "TAXIMETER_") -> str:
    """Name the environment variables that are wrong, and how; never their values, which may be
    secret.
    """
    lines = []
    for one in error.errors(include_input=False, include_url=False):
        message = one["msg"].removeprefix("Value error, ")
        name = "_".join(str(part) for part in one["loc"]).upper()
        lines.append(f"{prefix}{name}: {message}" if name else message)
    return "\n".join(lines)


def refuse_unsafe_database(settings: StoreSettings) -> None:
    """Raise ClickException if the database must not be used, before anything is served. One that is
    away is waited for.
    """
    accept_loss = settings.database_durability == "none"
    try:
        asyncio.run(check_database(settings.database_url, accept_loss=accept_loss))
    except UnsafeDatabase as error:
        raise click.ClickException(f"cannot start on this Postgres: {error}") from None
