"""Moves whole months between Postgres and an archive. Nothing leaves Postgres before it was read
back from the archive and compared, and every step can be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Final

import asyncpg

from taximeter.settler.archive.manifest import Manifest, Part, digest_of, read_manifest
from taximeter.settler.archive.places import (
    ArchiveError,
    ArchiveUnread,
    NothingThere,
    Place,
)
from taximeter.settler.archive.reading import prove_part, rows_of_file
from taximeter.settler.archive.rows import NAMES, Tally
from taximeter.settler.archive.writing import SIZES, SQL, Sizes, write_part
from taximeter.settler.books.stores import Session

_TRIES: Final = 5


class NotArchived(Exception):
    """A month stays as it is; says why in one sentence."""


def bounds(month: date) -> tuple[datetime, datetime]:
    """The first moment of a month and that of the next one, in UTC."""
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    since, until = (datetime.combine(one, datetime.min.time(), UTC) for one in (month, following))
    return since, until


def last_month(today: date) -> date:
    """The first day of the month before this one; it and this one are never archived."""
    return date(today.year - (today.month == 1), (today.month - 2) % 12 + 1, 1)


async def take_turn(conn: Session) -> None:
    """Be the only one who archives or restores, for this session. Raises NotArchived."""
    if not await conn.fetchval(SQL["alone"]):
        raise NotArchived("another `taximeter archive` is at work on this database")


async def archive_month(
    conn: Session,
    place: Place,
    month: date,
    sizes: Sizes = SIZES,
    tell: Callable[[int], object] = lambda rows: None,
) -> Part:
    """Write a month, read it back, compare it with Postgres under a lock that keeps the month as it
    is, and drop its rows there: the last two in one transaction with the record of it. Durable on
    return. A run that was cut off anywhere before is gone on with. What came after a month was
    archived becomes a further part. `tell` is called with numbers of rows as they are written.

    `conn` is of the owner of the tables. Raises NotArchived, ArchiveError, asyncpg errors; then the
    month is in Postgres as it was.
    """
    part = await _begin(conn, month)
    manifest = await _known(place, part)
    for _ in range(_TRIES):
        if manifest is None:
            part = await _anew(conn, part)
            manifest = await write_part(conn, place, part, bounds(month)[1], sizes, tell)
            await asyncio.to_thread(prove_part, place, part, manifest)
        if await _replace_rows(conn, place, part, manifest):
            return part
        # Written before the month was restored, or while rows came or went.
        manifest = None
    raise NotArchived(f"rows of {part} keep changing: try again later")


async def _begin(conn: Session, month: date) -> Part:
    row = await conn.fetchrow(SQL["begun"], month)
    if row is None:
        row = await conn.fetchrow(SQL["begin"], month, secrets.token_hex(4))
    assert row is not None
    return Part(**dict(row))


async def _known(place: Place, part: Part) -> Manifest | None:
    """What a run that was cut off has written; None when that is not whole. Raises ArchiveUnread:
    what cannot be read now may be whole.
    """
    try:
        manifest = await asyncio.to_thread(read_manifest, place, part)
        await asyncio.to_thread(prove_part, place, part, manifest)
    except NothingThere:
        return None
    except ArchiveUnread:
        raise
    except ArchiveError:
        return None
    return manifest


async def _anew(conn: Session, part: Part) -> Part:
    """The part under another name: what was written stays, and belongs to nothing."""
    token = secrets.token_hex(4)
    await conn.execute(SQL["rename"], part.month, part.part, token)
    return replace(part, token=token)


async def _replace_rows(conn: Session, place: Place, part: Part, manifest: Manifest) -> bool:
    """Drop the rows that the archive holds; False, and nothing is dropped, when Postgres has
    others. Reads the manifest once more: what is recorded is what lies there now.
    """
    content = await asyncio.to_thread(place.read, part.manifest)
    if Manifest.parse(part.manifest, content) != Manifest.parse("", manifest.as_bytes()):
        raise ArchiveError(f"{part.manifest} was changed by somebody else")
    async with conn.transaction(isolation="read_committed"):
        await conn.execute(SQL["lock_month"], part.month)
        if await tally_rows(conn, part.month) != manifest.tally:
            return False
        await conn.execute(
            SQL["note_archived"],
            part.month,
            part.part,
            manifest.rows,
            manifest.credits_used,
            digest_of(content),
        )
        for tries_left in reversed(range(_TRIES)):
            try:
                async with conn.transaction():
                    await conn.fetchval(SQL["drop_month"], part.month)
                break
            except asyncpg.LockNotAvailableError:  # Somebody reads; the month is locked already.
                if not tries_left:
                    raise
    return True


async def tally_rows(conn: Session, month: date) -> Tally:
    """What the rows of a month in Postgres come to."""
    row = (await conn.fetch(SQL["tally"], *bounds(month)))[0]
    return Tally(
        row["rows"], int(row["credits_used"]), int(row["digest"]), row["id_min"], row["id_max"]
    )


async def restore_month(conn: Session, place: Place, month: date) -> int:
    """Bring the rows of a month back into Postgres, as they were; how many. Only the newest month
    that was dropped can come back. Its files stay, and are used when it is archived again. Durable
    on return; cut off before, the month is archived as it was.

    Raises NotArchived, ArchiveError, asyncpg errors.
    """
    newest = await conn.fetchrow(SQL["restorable"])
    if newest is None or newest["month"] < month:
        raise NotArchived(f"{month:%Y-%m} is not archived")
    if newest["month"] > month:
        raise NotArchived(f"{newest['month']:%Y-%m} comes back first: it is later")
    if newest["archived"] != newest["dropped"]:
        lost = newest["dropped"] - newest["archived"]
        raise NotArchived(f"{lost:,} rows of {month:%Y-%m} were dropped without being archived")
    parts = [Part(**dict(row)) for row in await conn.fetch(SQL["parts"], *bounds(month))]
    whole = Tally()
    async with conn.transaction():
        table = await conn.fetchval(SQL["begin_restoring"], month)
        for part in parts:
            manifest = await asyncio.to_thread(read_manifest, place, part)
            for entry in manifest.files:
                rows = rows_of_file(place, entry)
                while (group := await asyncio.to_thread(next, rows, None)) is not None:
                    whole.add(group)
                    await conn.copy_records_to_table(
                        table, schema_name="taximeter", columns=NAMES, records=group
                    )
        found = await _tally_of(conn, table)
        if found != whole or whole.rows != newest["archived"]:
            raise ArchiveError(f"{month:%Y-%m}: Postgres has {found} of {whole}")
    for tries_left in reversed(range(_TRIES)):
        try:
            await conn.execute(SQL["end_restoring"], month)
            break
        except asyncpg.LockNotAvailableError:
            if not tries_left:
                raise
    return whole.rows


async def _tally_of(conn: Session, table: str) -> Tally:
    """As `tally_rows`, of the table of a month that is restored."""
    text = SQL["tally"].replace("FROM credit_usage_attribution", f"FROM taximeter.{table}")
    row = (
        await conn.fetch(text, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    )[0]
    return Tally(
        row["rows"], int(row["credits_used"]), int(row["digest"]), row["id_min"], row["id_max"]
    )
