"""Switches OpenTelemetry on for one process, where its settings say so. Nothing of it is imported
where they do not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from taximeter.settler.books.settings import StoreSettings

if TYPE_CHECKING:
    from taximeter.settler.status.spans import Tracing


@asynccontextmanager
async def tracing_of(settings: StoreSettings, process: str) -> AsyncIterator[Tracing | None]:
    """What makes and exports the spans of this process until the block ends; None when tracing is
    off. Spans that wait at the end are sent for at most two seconds.
    """
    if not settings.tracing:
        yield None
        return
    from taximeter.settler.status.spans import Tracing

    tracing = Tracing(process, costs=settings.tracing_costs)
    try:
        yield tracing
    finally:
        await tracing.aclose()
