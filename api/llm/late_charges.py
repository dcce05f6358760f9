"""Takes charges of requests that ended in a cell which their organisation had left meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from taximeter.api.llm.unsent_charges import Due, PendingCharges
from taximeter.settler.books.directory import TROUBLE, Directory

logger = logging.getLogger("taximeter.api")

EVERY_S: Final = 2.0


@asynccontextmanager
async def taking_late_charges(
    directory: Directory | None, pending: PendingCharges
) -> AsyncIterator[None]:
    """Take what other cells leave in the directory for this one, as long as the block runs: it is
    on disk here before it is gone there, and is charged once under its id.
    """
    if directory is None:
        yield
        return
    task = asyncio.create_task(_keep_taking(directory, pending))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_taking(directory: Directory, pending: PendingCharges) -> None:
    said = False
    while True:
        try:
            await take(directory, pending)
            said = False
        except TROUBLE as error:
            if not said:
                logger.warning("charges of other cells cannot be asked for: %r", error)
            said = True
        await asyncio.sleep(EVERY_S)


async def take(directory: Directory, pending: PendingCharges) -> None:
    """Take what there is. Raises asyncpg errors, OSError."""
    for row in await directory.late_charges():
        # What is not on disk here stays there, and comes again: under its id it is charged once.
        if await pending.keep(Due(*row)):
            await directory.taken(row["org_id"], row["request_id"])
