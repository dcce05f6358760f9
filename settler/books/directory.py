"""Asks the directory of cells where an organisation lives, and remembers what it said.

Only organisations that this cell does not have are asked for: its own books say which those are, so
the directory's outage stops nobody who lives here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.errors import CellUnknown, WrongCell
from taximeter.settler.books.connection_pools import BoundedPool
from taximeter.settler.books.named_sql import load_queries

_SQL: Final = load_queries("directory")
BELIEVED_S: Final = 30.0
"""How long an address is believed before it is asked for again."""
NOBODY_BELIEVED_S: Final = 3.0
"""The same of an organisation that no cell has: it may be made any moment."""
REMEMBERED_MAX: Final = 10_000
TIMEOUT_S: Final = 2.0
_AT_ONCE: Final = 100
TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Directory:
    """In which cell each organisation lives. `cell` is the name of this one."""

    def __init__(
        self, pool: BoundedPool, cell: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self.cell = cell
        self._clock = clock
        self._known: BoundedCache[str, tuple[float, WrongCell | None]] = BoundedCache(
            REMEMBERED_MAX
        )

    async def check(self, org_id: str) -> None:
        """Return when no other cell has this organisation. Raises WrongCell, and CellUnknown when
        that cannot be asked and is not known from before.
        """
        known = self._known.get(org_id)
        if known is not None:
            read_at, elsewhere = known
            lasts_s = NOBODY_BELIEVED_S if elsewhere is None else BELIEVED_S
            if self._clock() - read_at < lasts_s:
                self._say(elsewhere)
                return
        read_at = self._clock()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                row = await self._pool.fetchrow(_SQL["where_it_lives"], org_id)
        except TROUBLE as error:
            if known is not None and known[1] is not None:
                self._say(known[1])
            raise CellUnknown(org_id) from error
        elsewhere = None
        if row is not None and row["cell"] != self.cell:
            elsewhere = WrongCell(org_id, row["cell"], row["api_url"], row["sidecar_url"])
        self._known.keep(org_id, (read_at, elsewhere))
        self._say(elsewhere)

    async def hand_over(
        self, org_id: str, user_id: str, request_id: str, amount: int, payload: str
    ) -> None:
        """Leave a charge for the cell in which the organisation lives now. Durable on return;
        repeating it changes nothing. Raises CellUnknown.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._pool.execute(
                    _SQL["hand_over"], org_id, request_id, user_id, amount, payload, self.cell
                )
        except TROUBLE as error:
            raise CellUnknown(org_id) from error

    async def late_charges(self) -> list[asyncpg.Record]:
        """What other cells have left for this one: org_id, user_id, request_id, amount, payload.
        Raises asyncpg errors, OSError.
        """
        return await self._pool.fetch(_SQL["late_charges"], self.cell, _AT_ONCE)

    async def taken(self, org_id: str, request_id: str) -> None:
        """This cell has it. Raises asyncpg errors, OSError."""
        await self._pool.execute(_SQL["taken"], org_id, request_id)

    async def claim(self, org_id: str) -> None:
        """Write down that a new organisation lives here, before it is made. Repeating it changes
        nothing. Durable on return. Raises WrongCell where another cell has it, CellUnknown.
        """
        row: asyncpg.Record | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for slug in (org_id, f"{org_id}-{secrets.token_hex(4)}"):
                    await self._pool.execute(_SQL["claim"], org_id, slug, self.cell)
                    row = await self._pool.fetchrow(_SQL["where_it_lives"], org_id)
                    if row is not None:
                        break
        except asyncpg.ForeignKeyViolationError as error:
            raise LookupError(f"the directory knows no cell {self.cell!r}") from error
        except TROUBLE as error:
            raise CellUnknown(org_id) from error
        self._known.pop(org_id, None)
        if row is not None and row["cell"] != self.cell:
            raise WrongCell(org_id, row["cell"], row["api_url"], row["sidecar_url"])

    @staticmethod
    def _say(elsewhere: WrongCell | None) -> None:
        if elsewhere is not None:
            # Anew: an exception that is raised twice keeps the frames of both.
            found = elsewhere
            raise WrongCell(found.org_id, found.cell, found.api_url, found.sidecar_url)
