"""Lists, adds and removes the system admins of Postgres: `taximeter admin bootstrap`, `list` and
`remove`.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

import click

from taximeter.api.access.dev_tokens import DEV_ISSUER
from taximeter.api.commands.common import owner_database
from taximeter.api.commands.owner import as_owner, operator
from taximeter.api.settings.oidc import is_safe_url
from taximeter.api.sql import ADMINS
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.limits import check_user_id

REASON_MAX: Final = 1000
EMAIL_MAX: Final = 255
_ADDRESS: Final = re.compile(r"[^@\s]+@[^@\s]+")

DATABASE = owner_database()
SUBJECT = click.option(
    "--subject",
    default=None,
    help="The user's id at the identity provider: their claim of TAXIMETER_OIDC_USER_CLAIM (sub).",
)
EMAIL = click.option(
    "--email",
    default=None,
    help="Their address instead: the first user whose token says that the provider has verified it "
    "is meant, and from then on nobody else.",
)
ISSUER = click.option(
    "--issuer",
    default=None,
    help="The identity provider; TAXIMETER_OIDC_ISSUER by default, or dev mode's own.",
)


@click.command(
    help="Make the first system admin, by the user's id at the identity provider or by an address "
    "that it has verified. Refused when there is one already, unless --force says why there should "
    "be another. Doing it again for the same person changes nothing."
)
@SUBJECT
@EMAIL
@ISSUER
@click.option("--force", is_flag=True, help="Add another one; needs --reason.")
@click.option("--reason", default=None, help="Why, for the audit log.")
@DATABASE
def bootstrap(
    subject: str | None,
    email: str | None,
    issuer: str | None,
    force: bool,
    reason: str | None,
    database_url: str,
) -> None:
    """Say who is a system admin now."""
    person = _person(subject, email, issuer)
    if reason is not None and not 1 <= len(reason.strip()) <= REASON_MAX:
        raise click.BadParameter(f"1 to {REASON_MAX} characters", param_hint="--reason")
    if force and reason is None:
        raise click.UsageError("--force needs --reason, which the audit log keeps")
    click.echo(as_owner(database_url, _bootstrap, person, force, reason))


@click.command(name="list", help="Show the system admins of this list, and who was removed.")
@DATABASE
def list_admins(database_url: str) -> None:
    """Print a line each, the oldest first."""
    rows = as_owner(database_url, _all)
    for row in rows:
        state = "waits for the first session" if row["user_id"] is None else "is a system admin"
        if row["removed_at"] is not None:
            state = f"removed {row['removed_at']:%Y-%m-%d %H:%M} by {row['removed_by']}"
        added = f"added {row['added_at']:%Y-%m-%d %H:%M} by {row['added_by']}"
        click.echo(f"{_named(row)} of {row['issuer']}  {state}  {added}")
    if not rows:
        click.echo("nobody is listed: system admins are those whose token has the role")


@click.command(
    help="Take somebody off the list; processes that run see it within seconds. API keys end that "
    "they have made for organisations whose admin they are not."
)
@SUBJECT
@EMAIL
@ISSUER
@click.option("--reason", default=None, help="Why, for the audit log.")
@click.option("--keep-keys", is_flag=True, help="Let the API keys go on that they have made.")
@DATABASE
def remove(
    subject: str | None,
    email: str | None,
    issuer: str | None,
    reason: str | None,
    keep_keys: bool,
    database_url: str,
) -> None:
    """Say who is none any more, and how many keys ended."""
    person = _person(subject, email, issuer)
    click.echo(as_owner(database_url, _remove, person, reason, keep_keys))


def _person(subject: str | None, email: str | None, issuer: str | None) -> dict[str, str | None]:
    """Who is meant, as the columns of the list. Raises ClickException and UsageError."""
    if (subject is None) == (email is None):
        raise click.UsageError("say who: either --subject or --email")
    if subject is not None:
        try:
            check_user_id(subject)
        except InvalidRequest as error:
            raise click.BadParameter(str(error), param_hint="--subject") from None
    if email is not None and (len(email) > EMAIL_MAX or not _ADDRESS.fullmatch(email)):
        raise click.BadParameter(
            f"an address such as ann@example.com, at most {EMAIL_MAX} characters",
            param_hint="--email",
        )
    if issuer is None:
        issuer = os.environ.get("TAXIMETER_OIDC_ISSUER") or _issuer_of_dev_mode()
    if issuer is None:
        raise click.UsageError("which identity provider: set TAXIMETER_OIDC_ISSUER, or --issuer")
    if issuer != DEV_ISSUER and not is_safe_url(issuer):
        raise click.BadParameter(
            "must start with https://, and be written as in the tokens", param_hint="--issuer"
        )
    return {
        "issuer": issuer,
        "user_id": subject,
        "email": None if email is None else email.lower(),
    }


def _issuer_of_dev_mode() -> str | None:
    is_on = os.environ.get("TAXIMETER_DEV_MODE", "").lower() in {"1", "true", "yes", "on", "t", "y"}
    return DEV_ISSUER if is_on else None


def _named(row: Any) -> str:
    both = [text for text in (row["user_id"], row["email"]) if text is not None]
    return both[0] if len(both) == 1 else f"{both[0]} ({both[1]})"


def _is_meant(row: Any, person: dict[str, str | None]) -> bool:
    if row["removed_at"] is not None or row["issuer"] != person["issuer"]:
        return False
    if person["user_id"] is not None:
        return bool(row["user_id"] == person["user_id"])
    return bool(row["email"] == person["email"])


async def _all(conn: Any) -> list[Any]:
    return list(await conn.fetch(ADMINS["all"]))


async def _bootstrap(
    conn: Any, person: dict[str, str | None], force: bool, reason: str | None
) -> str:
    await conn.execute(ADMINS["lock"])
    rows = await _all(conn)
    if any(_is_meant(row, person) for row in rows):
        return f"{_named(person)} is listed already: nothing was changed"
    standing = [row for row in rows if row["removed_at"] is None]
    if standing and not force:
        others = ", ".join(f"{_named(row)} of {row['issuer']}" for row in standing)
        raise click.ClickException(
            f"there is a system admin already: {others}. Nothing was changed; --force --reason "
            "'...' adds another one"
        )
    await conn.execute(
        ADMINS["add"], person["issuer"], person["user_id"], person["email"], reason, operator()
    )
    await _audit(conn, "system.admin.added", person, None, {**person, "reason": reason})
    if person["user_id"] is None:
        return (
            f"{_named(person)} becomes a system admin with their first session in which"
            f" {person['issuer']} says that the address is verified"
        )
    return f"{_named(person)} is a system admin now, by sessions of {person['issuer']}"


async def _remove(
    conn: Any, person: dict[str, str | None], reason: str | None, keep_keys: bool
) -> str:
    await conn.execute(ADMINS["lock"])
    found = [row for row in await _all(conn) if _is_meant(row, person)]
    if not found:
        raise click.ClickException(f"{_named(person)} of {person['issuer']} is not listed")
    [row] = found
    await conn.execute(ADMINS["remove"], row["id"], operator())
    before = {name: row[name] for name in ("issuer", "user_id", "email")}
    await _audit(conn, "system.admin.removed", before, before, {"reason": reason})
    ended = 0
    if row["user_id"] is not None and not keep_keys:
        ended = await conn.fetchval(ADMINS["end_keys_of"], row["user_id"], operator())
    keys = f"; API keys that ended with it: {ended}" if ended else ""
    return f"{_named(row)} is no system admin by this list any more{keys}"


async def _audit(
    conn: Any,
    action: str,
    person: dict[str, str | None],
    before: dict[str, str | None] | None,
    after: dict[str, str | None],
) -> None:
    await conn.execute(
        ADMINS["write_audit"],
        operator(),
        action,
        person["user_id"] or person["email"],
        None if before is None else json.dumps(before),
        json.dumps(after),
    )
