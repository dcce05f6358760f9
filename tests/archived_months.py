"""Old months of usage, as tests of archives need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
from support.books import Conn

from taximeter.settler.archive.manifest import Part, read_manifest
from taximeter.settler.archive.months import bounds
from taximeter.settler.archive.places import Place
from taximeter.settler.archive.reading import rows_of_file
from taximeter.settler.archive.rows import NAMES
from taximeter.settler.archive.writing import SQL, Sizes
from taximeter.settler.proof.invariants import sql_invariants

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)
SMALL = Sizes(group_rows=7, file_rows=14)
"""So that thirty rows are several files of several groups."""

FILL = """
    INSERT INTO credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata,
            created_at, shard, epoch, seq, late, reserved)
    SELECT org, CASE WHEN nth % 3 = 0 THEN E'Zoë "q" \\\\ |' ELSE 'ann' END,
           CASE WHEN nth % 5 = 0 THEN 'credit_transfer' ELSE 'llm_inference' END, 'gpt-' || nth % 4,
           nth * 1000003, CASE WHEN nth % 7 = 0 THEN NULL ELSE 'r' || nth END,
           jsonb_build_object('n', nth, 'text', E'zwei\\nZeilen, "ß"', 'big', 12345678901234567890),
           -- Some at the very same moment.
           $2::timestamptz + make_interval(hours => (nth / 2)::integer) + interval '1 microsecond',
           CASE WHEN nth % 2 = 0 THEN 0 END, CASE WHEN nth % 2 = 0 THEN 1 END,
           CASE WHEN nth % 2 = 0 THEN nth END, nth % 6 = 0, nth * 2
      FROM generate_series(1, $1) AS nth, unnest(ARRAY['acme', 'zeta']) AS org
     ORDER BY md5(org || nth)
"""
ALL = f"SELECT {', '.join(NAMES)} FROM credit_usage_attribution".replace(
    "request_metadata", "request_metadata::text"
)

Rows = list[tuple[Any, ...]]


def remove(place: Place, name: str) -> None:
    """Take a file out of an archive in a folder, which nothing of ours does."""
    Path(place.url, name).unlink()


@dataclass
class Months:
    """`written`: every row that there ever was, by id."""

    pool: asyncpg.Pool[asyncpg.Record]
    conn: Conn
    database_url: str
    place: Place
    written: Rows = field(default_factory=list)

    async def fill(self, rows: int = 15) -> None:
        await self.conn.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by)"
            " SELECT org, org, org, 'test' FROM unnest(ARRAY['acme', 'zeta']) AS org"
        )
        for month in (JANUARY, FEBRUARY):
            await self.conn.execute("SELECT taximeter.make_attribution_month($1)", month)
            await self.conn.execute(FILL, rows, datetime.combine(month, datetime.min.time(), UTC))
        self.written = await self.rows()

    async def late(self, credits: int = 5) -> None:
        """A row of January that comes now."""
        await self.conn.execute(
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, credits_used, created_at)"
            " VALUES ('acme', 'ann', 'by_hand', $1, '2025-01-01 03:00:00.000001Z')",
            credits,
        )
        known = {row[0] for row in self.written}
        self.written += [row for row in await self.rows() if row[0] not in known]
        self.written.sort()

    async def rows(self) -> Rows:
        """What Postgres has."""
        return sorted(tuple(row) for row in await self.conn.fetch(ALL))

    async def parts(self) -> list[Part]:
        return [Part(**dict(row)) for row in await self.conn.fetch(SQL["all_parts"])]

    async def archived(self) -> Rows:
        """What the archive has, by what Postgres says of it."""
        found: Rows = []
        for part in await self.parts():
            for entry in read_manifest(self.place, part).files:
                for rows in rows_of_file(self.place, entry):
                    found += rows
        return found

    async def everything(self) -> Rows:
        return sorted(await self.rows() + await self.archived())

    async def violations(self) -> list[str]:
        # The rows with numbers of events stand for charges that nobody made here.
        return [
            f"{one.name}: {row[0]}"
            for one in sql_invariants()
            if one.name != "event_is_charged_once"
            for row in await self.conn.fetch(one.sql)
        ]

    async def has(self, month: date) -> int:
        """Rows of a month in Postgres."""
        found: int = await self.conn.fetchval(
            "SELECT count(*) FROM credit_usage_attribution"
            " WHERE created_at >= $1 AND created_at < $2",
            *bounds(month),
        )
        return found

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Conn]:
        """A connection of its own, as another process has it."""
        conn: Conn = await asyncpg.connect(self.database_url, server_settings={"timezone": "UTC"})
        try:
            yield conn
        finally:
            conn.terminate()
