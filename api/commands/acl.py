"""Prints the rules of the Redis users that our processes need: `taximeter acl`."""

from __future__ import annotations

import re

import click

from taximeter.meter.server.permissions import NEWEST_RULES, OLDEST_SERVER, ROLES


def _version(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """(major, minor) of `7.0`, `7.2.4` or `8`."""
    match = re.fullmatch(r"(\d{1,3})(?:\.(\d{1,5}))?(?:\.\d{1,5})*", text)
    if match is None:
        raise click.BadParameter("a version such as 7.0 or 8.1.3")
    version = int(match[1]), int(match[2] or 0)
    if version < OLDEST_SERVER:
        raise click.BadParameter("Redis 7.0 or later, or Valkey")
    return version


@click.command(
    help="Print the ACL SETUSER line of a Redis user for one kind of process: `meter` for "
    "gateways and sidecars, `api`, and `settler` for the settler and for check, rebuild and "
    "reshard. Add a password (`>secret`), or use the lines in an ACL file."
)
@click.option("--role", type=click.Choice(sorted(ROLES)), required=True)
@click.option("--user", default=None, help="Name of the user; taximeter-<role> by default.")
@click.option("--prefix", default="tm", show_default=True, help="TAXIMETER_KEY_PREFIX.")
@click.option(
    "--server-version",
    default=".".join(map(str, NEWEST_RULES)),
    show_default=True,
    callback=_version,
    help="Version of the Redis that is to take the line: one before 7.2 refuses rules about "
    "commands that it does not know. The default suits every later one, and every Valkey.",
)
def command(role: str, user: str | None, prefix: str, server_version: tuple[int, ...]) -> None:
    """Print one line, which redis-cli takes as it is once a password is in it."""
    rules = ROLES[role].rules(prefix, server_version)
    click.echo(f"ACL SETUSER {user or f'taximeter-{role}'} on {rules}")
