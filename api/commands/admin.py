"""Administers an installation: `taximeter admin`, by the database or by the admin API."""

from __future__ import annotations

import click

from taximeter.api.commands.admin_api.routes import commands
from taximeter.api.commands.admin_keys import key
from taximeter.api.commands.admin_people import bootstrap, list_admins, remove


@click.group(
    name="admin",
    help="Administer an installation. `bootstrap`, `key`, `list` and `remove` work on its "
    "database, with the rights of its owner; all others ask the admin API, with the token of "
    "TAXIMETER_API_TOKEN (a session, or a key of `key create`), or beside `taximeter dev` with one "
    "that they mint. They exit with 1 when the API refuses, and with 3 when no answer came and it "
    "is not known whether they took effect.",
)
def command() -> None:
    """Give these commands the same parent."""


for one in (bootstrap, list_admins, remove, key, *commands()):
    command.add_command(one)
