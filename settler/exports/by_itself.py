"""Exports each day without anybody asking: by one process at a time, and again when it has
changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from taximeter.settler.archive.places import Place
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.settings import SettlerSettings, StoreSettings
from taximeter.settler.books.stores import Connection
from taximeter.settler.exports.columns import Terms
from taximeter.settler.exports.days import (
    NotExported,
    NotYet,
    Wanted,
    Written,
    due_days,
    refuse_open_day,
    take_turn,
    watched_days,
    write_day,
)
from taximeter.settler.exports.manifest import exported_days

TIMEOUT_S: Final = 14_400.0
"""Of one statement, and of one look."""


@dataclass(slots=True)
class Look:
    """What became of a look: days that were written, why others were not, and the last day that
    lies there now.
    """

    written: list[Written] = field(default_factory=list)
    not_yet: str | None = None
    last_day: date | None = None


def terms_of(settings: StoreSettings) -> Terms:
    """What FOCUS is told."""
    return Terms(settings.export_credit_price, settings.export_currency, settings.export_provider)


def wanted_of(settings: SettlerSettings) -> Wanted:
    """What the settings ask for."""
    return Wanted(settings.export_kinds, settings.export_formats, terms_of(settings))


@asynccontextmanager
async def exporting(settings: StoreSettings) -> AsyncIterator[Connection]:
    """A connection for exports, whose statements may take long. Raises asyncpg errors, OSError."""
    async with (
        make_pool(
            settings.database_url,
            size_max=1,
            command_timeout_s=TIMEOUT_S,
            wait_s=settings.database_timeout_s,
            close_s=settings.database_timeout_s,
            server_settings={"application_name": "taximeter-export"},
            accept_loss=settings.database_durability == "none",
        ) as pool,
        pool.acquire() as conn,
    ):
        yield conn


async def export_days(
    settings: SettlerSettings,
    redis: Any,
    place: Place,
    tell: Callable[[Written], object] = lambda written: None,
) -> Look:
    """Write what is due: yesterday, days that were left out since the first one that is there, and
    those that have changed. A day that cannot be written keeps no other one waiting. Cut off
    anywhere, the next look goes on. Raises NotExported for a day whose rows are not what the books
    say, ArchiveError, asyncpg errors, OSError.
    """
    look, refused = Look(), []
    async with exporting(settings) as conn:
        try:
            await take_turn(conn)
            wanted = wanted_of(settings)
            days = await watched_days(conn, place, settings.export_watch_days)
            for day in await due_days(conn, place, wanted, days):
                try:
                    await refuse_open_day(conn, redis, settings.key_prefix, day)
                    done = await write_day(conn, place, wanted, day)
                except NotYet as error:
                    look.not_yet = str(error)
                except NotExported as error:
                    refused.append(error)
                else:
                    look.written.append(done)
                    tell(done)
        except NotYet as error:
            look.not_yet = str(error)
    look.last_day = max(await asyncio.to_thread(exported_days, place), default=None)
    if refused:
        raise refused[0]
    return look
