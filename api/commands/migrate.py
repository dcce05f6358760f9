"""`taximeter migrate`: apply, roll back or list the migrations."""

from __future__ import annotations

import click

from taximeter.api.migrate import Action, MigrationFailed, migrate


@click.command(name="migrate")
@click.argument("action", type=click.Choice(["up", "down", "status"]), default="up")
@click.option(
    "--database-url",
    envvar=["TAXIMETER_MIGRATE_DATABASE_URL", "TAXIMETER_DATABASE_URL"],
    required=True,
    show_envvar=True,
    help="The database to migrate, as the user who is to own it; `up` makes it when it is missing.",
)
def command(action: Action, database_url: str) -> None:
    """Apply the migrations (up), roll back the newest one (down) or list them (status)."""
    try:
        click.echo(migrate(database_url, action), nl=False)
    except MigrationFailed as error:
        raise click.ClickException(str(error)) from error
