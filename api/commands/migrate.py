"""Applies, rolls back or lists the migrations: `taximeter migrate`."""

from __future__ import annotations

import click

from taximeter.api.commands.common import owner_database, owner_database_is_from
from taximeter.api.processes.migrate import Action, MigrationFailed, migrate


@click.command(name="migrate")
@click.argument("action", type=click.Choice(["up", "down", "status"]), default="up")
@owner_database(
    "The database to migrate, as the user who is to own it; `up` makes it when it is missing."
)
def command(action: Action, database_url: str) -> None:
    """Apply the migrations (up), roll back the newest one (down) or list them (status)."""
    try:
        click.echo(migrate(database_url, action), nl=False)
    except MigrationFailed as error:
        where = f"the database of {owner_database_is_from(database_url)}"
        raise click.ClickException(f"{where} is not migrated: {error.in_one_line}") from error
