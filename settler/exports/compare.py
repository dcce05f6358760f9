"""Compares exports with what the books have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.books.stores import Connection
from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.exports.manifest import DayManifest, exported_days, read_manifest
from taximeter.settler.exports.reading import Sums, sums_of_days

_UNREAD_MAX: Final = 2
"""A place that does not answer takes a minute each time: after so many nothing more is asked."""


@dataclass(slots=True)
class Compared:
    """What a look at exports came to, a sentence each. `unread` could not be looked at, so that
    nothing is known about it.
    """

    days: int = 0
    rows: int = 0
    wrong: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def note(self, what: object, error: ArchiveError) -> None:
        """Put what was met where it belongs."""
        (self.unread if isinstance(error, ArchiveUnread) else self.wrong).append(f"{what}: {error}")


async def compare_exports(
    conn: Connection, place: Place, tell: Callable[[int, int], object] | None = None
) -> Compared:
    """What is wrong with the exports at a place: days that are missing between others, kinds that
    come to something else than the books have, files that are missing or altered. Reads all of
    them. `tell` is called with the days that were looked at, and how many there are. Within the
    caller's snapshot of the books. Raises asyncpg errors.
    """
    found = Compared()
    try:
        days = await asyncio.to_thread(exported_days, place)
    except ArchiveError as error:
        found.note(place.url, error)
        return found
    if not days:
        found.unread.append(f"there are no exports at {place.url}; is it the right place?")
        return found
    books = await sums_of_days(conn, tuple(KINDS), days[0], days[-1])
    known = set(days)
    every = [days[0] + timedelta(days=nth) for nth in range((days[-1] - days[0]).days + 1)]
    for nth, day in enumerate(every):
        if day not in known:
            found.wrong.append(f"{day} was not exported, and {every[0]} and {every[-1]} were")
            continue
        try:
            manifest = await asyncio.to_thread(read_manifest, place, day)
        except ArchiveError as error:
            found.note(day, error)
        else:
            found.days += 1
            for kind, one in manifest.kinds.items():
                found.rows += one.rows
                if one.sums != (expected := books[kind].get(day, Sums())):
                    found.wrong.append(f"{day}: {kind} has {one.sums}, the books have {expected}")
            await _files(place, manifest, found)
        if len(found.unread) >= _UNREAD_MAX:
            found.unread.append("what comes after it was not looked at")
            break
        if tell is not None:
            tell(nth + 1, len(every))
    return found


async def _files(place: Place, manifest: DayManifest, found: Compared) -> None:
    for one in manifest.kinds.values():
        for file in one.files.values():
            try:
                length, digest = await asyncio.to_thread(place.digest, file.name)
            except ArchiveError as error:
                found.note(manifest.day, error)
                continue
            if (length, digest) != (file.bytes, file.sha256):
                found.wrong.append(
                    f"{manifest.day}: {file.name} is not what its manifest says: its digest differs"
                )
