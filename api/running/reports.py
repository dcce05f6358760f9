"""Lets a route read reports, and says in its answer where they were read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Response

from taximeter.api.running.dependencies import ServicesDep
from taximeter.settler.books.stores import Connection

T = TypeVar("T")

_HEADERS: Final = ("x-as-of", "x-read-from")


class AnswerFromReports:
    """Reads for one answer, and says in its headers where from and as of when, if there is a
    choice.
    """

    def __init__(self, services: ServicesDep, response: Response) -> None:
        self._reports = services.reports
        self._response = response

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` reads in one snapshot. Raises asyncpg errors."""
        found, read = await self._reports.read(work)
        if read is not None:
            said = (read.as_of.isoformat(), read.place)
            self._response.headers.update(dict(zip(_HEADERS, said, strict=True)))
        return found

    @property
    def headers(self) -> dict[str, str]:
        """What was said, for an answer that is made by hand."""
        return {name: value for name, value in self._response.headers.items() if name in _HEADERS}


ReportsDep = Annotated[AnswerFromReports, Depends(AnswerFromReports)]
