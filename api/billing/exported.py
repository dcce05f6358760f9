"""Makes an export for one answer, piece by piece: no connection is kept while a piece is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date

from taximeter.api.billing.charges import Charges, Chosen
from taximeter.settler.exports.columns import Row, Terms
from taximeter.settler.exports.formats import Writer
from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.exports.reading import (
    PAGE_ROWS,
    Reader,
    bounds,
    organizations,
    pages_of_org,
    readable,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is exported: a kind, of an organisation or (None) of all, from first to last day."""

    kind: str
    first: date
    last: date
    org_id: str | None = None


async def export(
    asked: Asked, writer: Writer, read: Reader, charges: Charges, terms: Terms
) -> AsyncIterator[bytes]:
    """The pieces of a file of this kind. It is whole when this ends, and not when it raises:
    asyncpg errors, and ArchiveError for requests of a month whose archive is away.
    """
    kind = KINDS[asked.kind]

    def made(rows: Sequence[Row]) -> bytes:
        return writer.add([kind.values(readable(kind.name, row), terms) for row in rows])

    async for rows in _rows(asked, read, charges):
        # It takes longer than others who are served here may be kept waiting.
        piece = await asyncio.to_thread(made, rows)
        if piece:
            yield piece
    if rest := await asyncio.to_thread(writer.end):
        yield rest


async def _rows(asked: Asked, read: Reader, charges: Charges) -> AsyncIterator[Sequence[Row]]:
    if asked.org_id is not None:
        async for rows in _rows_of_org(asked.org_id, asked, read, charges):
            yield rows
        return
    async for org_id in organizations(read):
        async for rows in _rows_of_org(org_id, asked, read, charges):
            yield rows


async def _rows_of_org(
    org_id: str, asked: Asked, read: Reader, charges: Charges
) -> AsyncIterator[Sequence[Row]]:
    if asked.kind != "requests":
        async for rows in pages_of_org(read, asked.kind, org_id, asked.first, asked.last):
            yield rows
        return
    chosen = Chosen(org_id, *bounds(asked.first, asked.last))
    while True:
        found = await charges.page(read, chosen, PAGE_ROWS)
        if found:
            yield [{**dict(row), "org_id": org_id} for row in found]  # type: ignore[call-overload]
        if len(found) < PAGE_ROWS:
            return
        chosen = chosen._replace(last_at=found[-1]["created_at"], last_id=found[-1]["id"])
