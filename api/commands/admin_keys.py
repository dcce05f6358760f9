"""Makes, lists and ends keys of the installation, for the admin API: `taximeter admin key`."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import click

from taximeter.api.access.key_text import SYSTEM_PREFIX, make_key
from taximeter.api.access.system_keys import RIGHTS
from taximeter.api.commands.common import owner_database
from taximeter.api.commands.owner import as_owner, operator
from taximeter.api.sql import ADMINS, KEYS, SYSTEM_KEYS

DAYS_DEFAULT: Final = 90
DAYS_MAX: Final = 366
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_RIGHTS: Final = "; ".join(f"{name}: {what}" for name, what in RIGHTS.items())

DATABASE = owner_database()


@click.group(help="Keys by which your automation calls the admin API, as `Bearer` tokens.")
def key() -> None:
    """Give these commands the same parent."""


@key.command(
    help="Make a key and print it, this once: Postgres has a digest of it alone. What it is for "
    f"never changes. Rights are: {_RIGHTS}."
)
@click.argument("name")
@click.option(
    "--right",
    "rights",
    type=click.Choice(list(RIGHTS)),
    multiple=True,
    required=True,
    help="What it is for; may be given several times.",
)
@click.option(
    "--days",
    type=click.IntRange(1, DAYS_MAX),
    default=DAYS_DEFAULT,
    show_default=True,
    help="How long it lives.",
)
@DATABASE
def create(name: str, rights: tuple[str, ...], days: int, database_url: str) -> None:
    """Print the key alone on stdout, and what it is on stderr."""
    if not _NAME.fullmatch(name):
        raise click.BadParameter("1 to 255 characters, none of them a control", param_hint="NAME")
    text, said = as_owner(database_url, _create, name, sorted(set(rights)), days)
    click.echo(said, err=True)
    click.echo(text)


@key.command(name="list", help="Show the keys that are good now, without what anybody could use.")
@click.option("--all", "also_ended", is_flag=True, help="Also those that were revoked or expired.")
@DATABASE
def list_keys(also_ended: bool, database_url: str) -> None:
    """Print a line each, the oldest first."""
    rows = as_owner(database_url, _all, also_ended)
    for row in rows:
        if row["revoked_at"] is not None:
            state = f"revoked {row['revoked_at']:%Y-%m-%d %H:%M} by {row['revoked_by']}"
        elif row["is_expired"]:
            state = f"expired {row['expires_at']:%Y-%m-%d %H:%M}"
        else:
            state = f"good until {row['expires_at']:%Y-%m-%d %H:%M}"
        used = row["last_used_at"]
        used = "never used" if used is None else f"last used {used:%Y-%m-%d %H:%M}"
        made = f"made {row['created_at']:%Y-%m-%d %H:%M} by {row['created_by']}"
        rights = ",".join(row["rights"])
        click.echo(
            f"{row['key_id']}  {row['name']}  ...{row['last_four']}  {rights}  {state}  {used}"
            f"  {made}"
        )
    if not rows:
        click.echo("no keys" if also_ended else "no keys that are good now")


@key.command(help="End a key, by its id as `list` shows it. It opens nothing from then on.")
@click.argument("key_id")
@DATABASE
def revoke(key_id: str, database_url: str) -> None:
    """Say that it is over; doing it again changes nothing."""
    click.echo(as_owner(database_url, _revoke, key_id))


async def _create(conn: Any, name: str, rights: list[str], days: int) -> tuple[str, str]:
    made = make_key(await conn.fetchval(KEYS["read_seal"]), SYSTEM_PREFIX)
    expires_at = await conn.fetchval(
        SYSTEM_KEYS["insert"],
        made.key_id,
        name,
        rights,
        made.digest,
        made.text[-4:],
        operator(),
        days,
    )
    after = {"name": name, "rights": rights, "expires_at": expires_at.isoformat()}
    await _audit(conn, "system.key.created", made.key_id, None, after)
    said = f"{made.key_id} for {', '.join(rights)} is good until {expires_at:%Y-%m-%d %H:%M} (UTC)."
    return made.text, f"{said} It is shown this once:"


async def _all(conn: Any, also_ended: bool) -> list[Any]:
    await conn.execute("SET LOCAL timezone = 'UTC'")
    return list(await conn.fetch(SYSTEM_KEYS["list"], also_ended))


async def _revoke(conn: Any, key_id: str) -> str:
    row = await conn.fetchrow(SYSTEM_KEYS["lock"], key_id)
    if row is None:
        raise click.ClickException(f"KEY_ID: there is no key {key_id!r}; see `admin key list`")
    if row["revoked_at"] is not None:
        return f"{key_id} ({row['name']}) was revoked already: nothing was changed"
    await conn.execute(SYSTEM_KEYS["revoke"], key_id, operator())
    before = {"name": row["name"], "rights": row["rights"]}
    await _audit(conn, "system.key.revoked", key_id, before, {})
    return f"{key_id} ({row['name']}) is revoked: it opens nothing from now on"


async def _audit(
    conn: Any,
    action: str,
    key_id: str,
    before: dict[str, Any] | None,
    after: dict[str, Any],
) -> None:
    await conn.execute(
        ADMINS["write_audit"],
        operator(),
        action,
        key_id,
        None if before is None else json.dumps(before),
        json.dumps(after),
    )
