"""`taximeter token`: mint a session token with the local key of dev mode."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain
from taximeter.api.settings import ApiSettings
from taximeter.api.tokens import TTL_S_MAX, DevKeyError, load_dev_key
from taximeter.meter import InvalidRequest
from taximeter.meter.limits import check_user_id


@click.command(
    help="Mint a session token with the local key. Dev mode only (TAXIMETER_DEV_MODE=1)."
)
@click.option("--user", required=True, help="User id that the token is for.")
@click.option("--email", default=None, help="Email address of the user.")
@click.option("--system-admin", is_flag=True, help="Give the role of system admin.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(1, TTL_S_MAX),
    default=3600,
    show_default=True,
    help="Seconds that the token is valid.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder with the key; TAXIMETER_DATA_DIR by default.",
)
def command(
    user: str, email: str | None, system_admin: bool, ttl_s: int, data_dir: Path | None
) -> None:
    """Print the token alone, so that a shell can keep it in a variable."""
    try:
        settings = ApiSettings()
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    if not settings.dev_mode:
        raise click.ClickException(
            "tokens are minted in dev mode only: set TAXIMETER_DEV_MODE=1, "
            "or log in with the configured identity provider"
        )
    try:
        key = load_dev_key(data_dir or settings.data_dir)
        roles = (settings.admin_role,) if system_admin else ()
        token = key.mint(check_user_id(user), ttl_s=ttl_s, roles=roles, email=email)
    except (DevKeyError, InvalidRequest, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(token)
