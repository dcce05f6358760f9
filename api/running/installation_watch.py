"""Looks whether a process works on its own database or on what may be a copy of it, where it must
take no credits: at its start and every second, never within a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self

import asyncpg

from taximeter.settler.books.installation import objection
from taximeter.settler.books.stores import AWAY, Pool

logger = logging.getLogger("taximeter.installation")

LOOK_EVERY_S: Final = 1.0
FIRST_LOOK_S: Final = 2.0
"""A start waits so long for Postgres: without it, it goes on, and looks again."""
REASON: Final = "another_installation"
_AWAY: Final = (*AWAY, asyncpg.InterfaceError)


class InstallationWatch:
    """`stopped`: whether no credits may be taken, as the last look found that Postgres answered.
    Before the first one they may: nothing of a copy is open without its Postgres. `changed` is told
    when that changes.
    """

    def __init__(
        self,
        pool: Pool,
        installation: str | None,
        changed: Callable[[bool], object] = lambda stopped: None,
    ) -> None:
        self._pool = pool
        self._installation = installation
        self._changed = changed
        self._said: str | None = None
        self._trouble = ""
        self.stopped = False

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Self]:
        """Look once, and from then on in the background."""
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self.look()
        except TimeoutError:
            logger.warning("Postgres does not say yet whose installation this is")
        looking = asyncio.create_task(self._go_on())
        try:
            yield self
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def look(self) -> None:
        """Ask Postgres. What was found before stays while it cannot be asked."""
        try:
            why = await objection(self._pool, self._installation)
        except _AWAY as error:
            logger.debug("installation: %s: %s", type(error).__name__, error)
            return
        except Exception as error:
            # Whatever it is: a look that is not made again would let a copy charge for ever.
            if (trouble := repr(error)) != self._trouble:  # Said once, and not each second.
                logger.exception("whose installation this is could not be looked at")
            self._trouble = trouble
            return
        self._trouble = ""
        self.stopped = why is not None
        if why != self._said:
            self._changed(self.stopped)
            self._said = why
            logger.warning("%s", f"no credits are taken: {why}" if why else "credits are taken")

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()
