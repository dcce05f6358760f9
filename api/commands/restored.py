"""Says what a restored database is, and lets it speak again: `taximeter restored`."""

from __future__ import annotations

import asyncio
import re
import sys

import click

from taximeter.api.commands.maintenance import maintenance_settings, reported
from taximeter.settler.books.installation import (
    AnotherInstallation,
    Standing,
    become_copy,
    claim_installation,
    read_standing,
    speak_again,
)
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.books.watermarks import count_shards, read_mark
from taximeter.settler.shards.shard_view import view_shard

NOTE_MAX = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@click.command(
    help="Say what this database is, after a restore: without an option nothing changes, and the "
    "exit code is 1 while nobody is told anything, or nothing charged, because it may be a copy."
)
@click.option(
    "--same",
    "note",
    metavar="NOTE",
    help="It is the installation itself: charges, notices, e-mails and archives go on. The note "
    "says why.",
)
@click.option(
    "--copy",
    "name",
    metavar="NAME",
    help="It is a copy, and gets this name: nothing of what waits is sent, and every receiver is "
    "disabled. Its Redis must not be that of the original.",
)
def command(note: str | None, name: str | None) -> None:
    """Print what is known, or write down what was said."""
    if note is not None and name is not None:
        raise click.UsageError("--same or --copy: give one of them")
    if note is not None and not 1 <= len(note.strip()) <= NOTE_MAX:
        raise click.BadParameter(f"1 to {NOTE_MAX} characters", param_hint="--same")
    if name is not None and not _NAME.fullmatch(name):
        raise click.BadParameter(
            "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
            param_hint="--copy",
        )
    settings = maintenance_settings()
    with reported():
        silent = asyncio.run(_run(settings, note, name))
    if silent:
        sys.exit(1)


async def _run(settings: StoreSettings, note: str | None, name: str | None) -> bool:
    async with open_stores(settings) as stores:
        if note is not None:
            try:
                await claim_installation(stores)
            except AnotherInstallation as error:
                raise click.ClickException(str(error)) from None
            await speak_again(stores.pool, note.strip())
        if name is not None:
            await _copy(stores, name)
        standing = await read_standing(stores.pool)
    for line in _lines(standing):
        click.echo(line)
    return standing.silent_since is not None


async def _copy(stores: Stores, name: str) -> None:
    standing = await read_standing(stores.pool)
    if standing.name == name:
        raise click.ClickException(f"it is {name} already: a copy needs another name")
    for shard in range(await count_shards(stores.pool)):
        await _refuse_other_redis(stores, shard, is_silent=standing.silent_since is not None)
    dropped = await become_copy(stores.pool, name)
    click.echo(
        f"{dropped.receivers} receivers are disabled; {dropped.deliveries} deliveries and"
        f" {dropped.notices} notices are not sent"
    )


async def _refuse_other_redis(stores: Stores, shard: int, *, is_silent: bool) -> None:
    """Whose Redis it is: empty, or already of this copy. Raises ClickException for any other."""
    mark = await read_mark(stores.pool, shard)
    seen = await view_shard(stores, shard, mark)
    if not seen.meta:
        return
    ours, theirs = mark.ledger, seen.ledger
    if theirs is not None and (ours is None or not ours.continues(theirs)):
        raise click.ClickException(
            "the Redis of TAXIMETER_REDIS_URL is at work with another Postgres: give the copy a"
            " Redis of its own, which is empty, before anything of it starts"
        )
    if not is_silent:
        raise click.ClickException(
            "this is the installation itself, at work with its Redis: nothing was changed"
        )


def _lines(standing: Standing) -> list[str]:
    name = standing.name or "no name (TAXIMETER_INSTALLATION gives one)"
    lines = [f"installation: {name}", f"database: {standing.history or 'never used'}"]
    if standing.silent_since is None:
        lines.append("notices, e-mails and archives: as set up")
    else:
        lines += [
            f"NOBODY IS TOLD ANYTHING since {standing.silent_since:%Y-%m-%d %H:%M:%S} UTC:"
            f" {standing.silent_because}",
            *(["NO CREDITS ARE TAKEN, and no shard is opened"] if standing.is_stopped else []),
            "say which: taximeter restored --same 'why', or taximeter restored --copy NAME",
        ]
    if standing.answered_at is not None:
        lines.append(f"said at {standing.answered_at:%Y-%m-%d %H:%M:%S} UTC: {standing.answer}")
    lines.append(
        f"waiting: {standing.deliveries} deliveries, {standing.notices} notices for"
        f" {standing.receivers} active receivers"
    )
    return lines
