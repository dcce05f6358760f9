"""Mints a session token with the local key of dev mode: `taximeter token`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from pydantic import ValidationError

from taximeter.api.access.dev_tokens import KEY_FILE_NAME, TTL_S_MAX, DevKeyError, load_dev_key
from taximeter.api.commands.common import explain
from taximeter.api.settings.api import ApiSettings
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.limits import check_user_id

DEV_DATA_DIR: Final = Path(".data/dev")


def data_dir_is_found(folder: Path) -> bool:
    """Whether this command finds that folder by itself, when it is run where we are."""
    return folder == DEV_DATA_DIR.resolve() and _is_unsaid()


def running_dev() -> Path | None:
    """The folder of the `taximeter dev` that was started here, unless settings name another one."""
    key = DEV_DATA_DIR / KEY_FILE_NAME
    return DEV_DATA_DIR if _is_unsaid() and key.is_file() else None


def _is_unsaid() -> bool:
    names = ("TAXIMETER_DATA_DIR", "TAXIMETER_DEV_MODE", "TAXIMETER_OIDC_ISSUER")
    return not any(os.environ.get(name) for name in names)


@click.command(
    help="Mint a session token with the local key. Dev mode only: beside `taximeter dev`, or with "
    "TAXIMETER_DEV_MODE=1."
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
    help="Folder with the key; that of `taximeter dev`, or TAXIMETER_DATA_DIR, by default.",
)
def command(
    user: str, email: str | None, system_admin: bool, ttl_s: int, data_dir: Path | None
) -> None:
    """Print the token alone, so that a shell can keep it in a variable."""
    folder = data_dir or running_dev()
    try:
        # A folder that `taximeter dev` has made is dev mode, and needs no setting to say so.
        settings = ApiSettings() if folder is None else ApiSettings(dev_mode=True)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    if not settings.dev_mode:
        raise click.ClickException(
            "tokens are minted in dev mode only: set TAXIMETER_DEV_MODE=1, "
            "or log in with the configured identity provider"
        )
    place = (folder or settings.data_dir) / KEY_FILE_NAME
    is_new = not place.exists()
    try:
        key = load_dev_key(place.parent)
        roles = (settings.admin_role,) if system_admin else ()
        token = key.mint(check_user_id(user), ttl_s=ttl_s, roles=roles, email=email)
    except (DevKeyError, InvalidRequest, OSError) as error:
        raise click.ClickException(str(error)) from error
    if is_new:
        click.echo(
            f"taximeter: made a new key, {place.resolve()}; an API with another TAXIMETER_DATA_DIR "
            "does not accept its tokens",
            err=True,
        )
    click.echo(token)
