"""Gives `rebuild` and `reshard` their options, and says what went wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import click
from pydantic import ValidationError
from redis.exceptions import RedisError

from taximeter.api.commands.common import explain
from taximeter.meter.wire.errors import StoreError
from taximeter.settler.books.installation import MayBeACopy
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.shards.drain import HoldsOpen, ShardBusy
from taximeter.settler.shards.reshard import EventsMissing

WAIT = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait for open holds to end; no credit is taken meanwhile (503 MAINTENANCE).",
)
FORCE = click.option(
    "--force",
    is_flag=True,
    help="Go on when holds are still open after that: they stay open, with what they have "
    "reported; their ends wait until the shard is open again, about a second.",
)


def maintenance_settings() -> StoreSettings:
    """Where the stores are. Raises ClickException for bad settings."""
    try:
        return StoreSettings()
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None


@contextmanager
def reported() -> Iterator[None]:
    """Turn what an operator can do something about into a message and exit code 1."""
    try:
        yield
    except HoldsOpen as error:
        raise click.ClickException(
            f"{error}. Nothing was done. Wait longer with --wait, or keep them open with --force."
        ) from error
    except (
        *(ShardBusy, EventsMissing, MayBeACopy, StoreError),
        *(LookupError, TimeoutError, ValueError),
    ) as error:
        raise click.ClickException(str(error)) from error
    except (OSError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error
