"""`taximeter acl`: the rules of the Redis users that our processes need."""

from __future__ import annotations

import click

from taximeter.meter.permissions import ROLES


@click.command(
    help="Print the ACL SETUSER line of a Redis user for one kind of process: `meter` for "
    "gateways and sidecars, `api`, and `settler` for the settler and for check, rebuild and "
    "reshard. Add a password (`>secret`), or use the lines in an ACL file."
)
@click.option("--role", type=click.Choice(sorted(ROLES)), required=True)
@click.option("--user", default=None, help="Name of the user; taximeter-<role> by default.")
@click.option("--prefix", default="tm", show_default=True, help="TAXIMETER_KEY_PREFIX.")
def command(role: str, user: str | None, prefix: str) -> None:
    """Print one line, which redis-cli takes as it is once a password is in it."""
    click.echo(f"ACL SETUSER {user or f'taximeter-{role}'} on {ROLES[role].rules(prefix)}")
