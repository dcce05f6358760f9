"""Runs the background worker: `taximeter settler`."""

from __future__ import annotations

import asyncio

import asyncpg
import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain
from taximeter.meter.garbage import freeze_start
from taximeter.meter.wire.errors import StoreError
from taximeter.settler.books.connections import UnsafeDatabase
from taximeter.settler.books.installation import AnotherInstallation
from taximeter.settler.books.logs import configure_logs
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.shards.guardian import ShardCountMismatch
from taximeter.settler.worker.main import run_worker


@click.command(
    help="Settle, relay, sweep, close and renew every second, reconcile and refresh every minute. "
    "Any number of these may run at once. Stops on SIGTERM when the running work is done."
)
def command() -> None:
    """Run the worker until it is told to stop."""
    try:
        settings = SettlerSettings()
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    configure_logs(settings.log_format)
    try:
        asyncio.run(run_worker(settings, freeze_start))
    except (ShardCountMismatch, AnotherInstallation) as error:
        raise click.ClickException(str(error)) from None
    except StoreError as error:
        raise click.ClickException(f"cannot start on this Redis: {error}") from None
    except UnsafeDatabase as error:
        raise click.ClickException(f"cannot start on this Postgres: {error}") from None
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise click.ClickException(
            f"the database of TAXIMETER_DATABASE_URL lacks our tables: run `taximeter migrate`"
            f" ({error})"
        ) from None
    except OSError as error:
        raise click.ClickException(f"cannot serve health: {error}") from None
    except asyncpg.PostgresError as error:
        raise click.ClickException(
            f"cannot start on the Postgres of TAXIMETER_DATABASE_URL: {error}"
        ) from None
