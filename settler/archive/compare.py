"""Compares archives with what Postgres says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from taximeter.settler.archive.manifest import Manifest, Part, read_manifest
from taximeter.settler.archive.months import bounds
from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.archive.reading import prove_part
from taximeter.settler.archive.writing import SQL
from taximeter.settler.books.stores import Session

_SHOWN_MAX: Final = 5
_UNREAD_MAX: Final = 2
"""A place that does not answer takes a minute each time: after so many nothing more is asked."""


@dataclass(slots=True)
class Compared:
    """What a look at an archive came to, a sentence each. `unread` could not be looked at, so that
    nothing is known about it.
    """

    wrong: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def note(self, part: Part, error: ArchiveError) -> None:
        """Put what was met with a part where it belongs."""
        (self.unread if isinstance(error, ArchiveUnread) else self.wrong).append(f"{part}: {error}")


async def compare_archives(
    conn: Session,
    place: Place,
    *,
    files: bool,
    tell: Callable[[int, int, str], None] = lambda done, total, now: None,
) -> Compared:
    """What is wrong with the archive: a manifest that is missing, altered, or says another number
    of rows or credits than Postgres has noted. With `files`, every file is read: digests, rows, and
    sums by organisation beside the rollup. A place that does not answer is not asked for every
    part. `tell` hears how many rows are read, of how many, and which month is.
    Raises asyncpg errors.
    """
    found = Compared()
    by_month: dict[str, list[tuple[Part, Manifest]]] = {}
    for row in await conn.fetch(SQL["all_parts"]):
        part = Part(**dict(row))
        try:
            manifest = await asyncio.to_thread(read_manifest, place, part)
        except ArchiveError as error:
            found.note(part, error)
            if len(found.unread) >= _UNREAD_MAX:
                found.unread.append("the parts after it were not looked at")
                break
            continue
        if (manifest.rows, manifest.credits_used) != (part.requests, part.credits_used):
            found.wrong.append(
                f"{part}: {part.manifest} says {manifest.rows:,} rows and"
                f" {manifest.credits_used:,} millicredits, Postgres {part.requests:,} and"
                f" {part.credits_used:,}"
            )
        by_month.setdefault(part.folder, []).append((part, manifest))
    for row in await conn.fetch(SQL["sealed_digests"]):
        parts = by_month.get(f"{row['month']:%Y-%m}", [])
        # What was archived before there were seals, or dropped without an archive, has no seal.
        if sum(part.requests for part, _ in parts) != row["rows"]:
            continue
        if sum(int(manifest.digest) for _, manifest in parts) != row["digest"]:
            found.wrong.append(
                f"{row['month']:%Y-%m}: the archive has as many rows as were sealed, and not the"
                " same ones"
            )
    if files:
        read, total = 0, sum(one.rows for parts in by_month.values() for _, one in parts)
        for month, parts in by_month.items():

            def reads(rows: int, month: str = month) -> None:
                nonlocal read
                read += rows
                tell(read, total, month)

            await _files_of_month(conn, place, parts, found, reads)
            if len(found.unread) >= _UNREAD_MAX:
                break
    return found


async def find_strays(conn: Session, place: Place) -> list[str]:
    """Files in the folders of months that belong to no part: of runs that were cut off, or from
    before a month was restored and archived anew. Raises ArchiveError, asyncpg errors.
    """
    parts = [Part(**dict(row)) for row in await conn.fetch(SQL["all_parts"])]
    known = {
        name
        for part in parts
        for name in (
            part.manifest,
            *(one.name for one in (await asyncio.to_thread(read_manifest, place, part)).files),
        )
    }
    found: list[str] = []
    for folder in sorted({part.folder for part in parts}):
        found += await asyncio.to_thread(place.names, folder)
    return [name for name in found if name not in known]


async def _files_of_month(
    conn: Session,
    place: Place,
    parts: list[tuple[Part, Manifest]],
    compared: Compared,
    tell: Callable[[int], object],
) -> None:
    """Every file of a month, and what it comes to by organisation."""
    month = parts[0][0].month
    found: dict[str, tuple[int, int]] = {}
    for part, manifest in parts:
        try:
            by_org = await asyncio.to_thread(prove_part, place, part, manifest, tell)
        except ArchiveError as error:
            compared.note(part, error)
            return
        for org_id, (requests, used) in by_org.items():
            before = found.get(org_id, (0, 0))
            found[org_id] = before[0] + requests, before[1] + used
    state = (await conn.fetch(SQL["dropped"], month))[0]
    if state["dropped"] != sum(part.requests for part, _ in parts):
        return  # Some of it was dropped without being archived, or waits to be.
    for row in await conn.fetch(SQL["rows_by_org"], *bounds(month)):
        requests, used = found.get(row["org_id"], (0, 0))
        found[row["org_id"]] = requests + row["requests"], used + row["credits_used"]
    rollup = {
        row["org_id"]: (row["requests"], row["credits_used"])
        for row in await conn.fetch(SQL["used_by_org"], month)
    }
    different = [
        f"{month:%Y-%m}: of {org_id} the archive has {found.get(org_id, (0, 0))} requests and"
        f" millicredits, the rollup {rollup.get(org_id, (0, 0))}"
        for org_id in sorted(found.keys() | rollup.keys())
        if found.get(org_id, (0, 0)) != rollup.get(org_id, (0, 0))
    ]
    compared.wrong += different[:_SHOWN_MAX]
