"""Says in one line what went wrong in a command."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, TypeVar

import asyncpg
import click
from pydantic import ValidationError
from pydantic_settings import SettingsError
from redis.exceptions import RedisError

from taximeter.settler.books.connections import UnsafeDatabase, check_database
from taximeter.settler.books.settings import StoreSettings, credential

F = TypeVar("F", bound=Callable[..., Any])

OWNER_VARIABLES = ["TAXIMETER_MIGRATE_DATABASE_URL", "TAXIMETER_DATABASE_URL"]


def owner_database(said: str = "The database, as the user who owns it.") -> Callable[[F], F]:
    """The option `--database-url` of commands that the owner of the database runs: from a variable,
    or from a file of the folder of credentials that is named like one.
    """

    def or_credential(context: click.Context, option: click.Parameter, url: str | None) -> str:
        found = (credential(name.lower()) for name in OWNER_VARIABLES)
        url = url or next((one for one in found if one), None)
        if url is None:
            raise click.MissingParameter(ctx=context, param=option)
        return url

    return click.option(
        "--database-url",
        envvar=OWNER_VARIABLES,
        callback=or_credential,
        show_envvar=True,
        help=f"{said}  [required]",
    )


def owner_database_is_from(url: str) -> str:
    """The variable, or else the option, that this URL of `owner_database` was given in."""
    given = ((name, os.environ.get(name), credential(name.lower())) for name in OWNER_VARIABLES)
    return next((name for name, *urls in given if url in urls), "--database-url")


_EXAMPLES = {
    "oidc_algorithms": '["RS256", "ES256"]',
    "oidc_required_claims": '{"hd": "example.com"}',
    "llm_extra_fields": '["top_k_return"]',
}


def explain(error: ValidationError | SettingsError, prefix: str = "TAXIMETER_") -> str:
    """Name the environment variables that are wrong, and how; never their values, which may be
    secret.
    """
    if isinstance(error, SettingsError):
        return _not_json(error, prefix)
    lines = []
    for one in error.errors(include_input=False, include_url=False):
        message = one["msg"].removeprefix("Value error, ")
        name = "_".join(str(part) for part in one["loc"]).upper()
        lines.append(f"{prefix}{name}: {message}" if name else message)
    return "\n".join(lines)


def _not_json(error: SettingsError, prefix: str) -> str:
    """A variable that holds a list or a table, and what is in it is no JSON."""
    found = re.search(r'field "(\w+)"', str(error))
    name = found.group(1) if found is not None else ""
    example = _EXAMPLES.get(name, '{"name": 1.5}')
    return f"{prefix}{name.upper()}: must be JSON, such as '{example}'"


def in_one_line(error: Exception) -> str | None:
    """What went wrong and what to do, for what the surroundings may do to any command; None for
    what only we can have done wrong.
    """
    if isinstance(error, (ValidationError, SettingsError)):
        return explain(error)
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)):
        return (
            "the database of TAXIMETER_DATABASE_URL lacks our tables: run `taximeter migrate`"
            f" ({error})"
        )
    if isinstance(error, RedisError):
        return f"the Redis of TAXIMETER_REDIS_URL does not answer as it should: {error}"
    if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        return f"the Postgres of TAXIMETER_DATABASE_URL does not answer as it should: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, OSError):
        # Redis and HTTP clients have errors of their own; asyncpg leaves these as they are.
        if is_of_postgres(error):
            said = str(error) or "no answer in time"
            return f"the Postgres of TAXIMETER_DATABASE_URL cannot be reached: {said}"
        return error.strerror or str(error) or "no answer in time"
    return None


def is_of_postgres(error: BaseException) -> bool:
    """Whether the client of Postgres was at work when this happened, or what this came from."""
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in walk_tb(seen.__traceback__):
            if str(frame.f_globals.get("__name__")).partition(".")[0] == "asyncpg":
                return True
        seen = seen.__cause__ or seen.__context__
    return False


def refuse_unsafe_database(settings: StoreSettings) -> None:
    """Raise ClickException if the database must not be used, before anything is served. One that is
    away is waited for.
    """
    accept_loss = settings.database_durability == "none"
    try:
        asyncio.run(check_database(settings.database_url, accept_loss=accept_loss))
    except UnsafeDatabase as error:
        raise click.ClickException(f"cannot start on this Postgres: {error}") from None


def some_lines(
    lines: list[str],
    most: int | None,
    how: str = "--all shows them, --report FILE writes them down",
) -> list[str]:
    """The first of them, and how many more there are; all without `most`."""
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"  and {len(lines) - most} more; {how}"]
