"""`taximeter admin`: what the operator of an installation does from its own machine."""

from __future__ import annotations

import click

from taximeter.api.commands.admin_keys import key
from taximeter.api.commands.admin_people import bootstrap, list_admins, remove


@click.group(
    name="admin",
    help="Administer this installation itself, with the rights of its database's owner.",
)
def command() -> None:
    """Give these commands the same parent."""


for one in (bootstrap, list_admins, remove, key):
    command.add_command(one)
