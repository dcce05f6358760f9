"""Requests that are simply done again when Postgres has undone them for the sake of another one.

Locks are taken in one order (docs/architecture.md, "Locks"), so nobody should ever need this: it is
the second line, for statements that operators run by hand in an order of their own.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from taximeter.settler.books.retries import TRANSIENT

ATTEMPTS: Final = 5
_BACKOFF_FIRST_S: Final = 0.02

UNDONE: Final[Counter[str]] = Counter()
"""How often each route of this process was undone and done again."""

P = ParamSpec("P")
T = TypeVar("T")


def again_when_undone(route: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A route that does all of its work in one transaction, tried up to ATTEMPTS times.

    Only for such routes: what Postgres undid has changed nothing, so the whole of it can be done
    again. Raises what the last attempt raised, which leaves as 503.
    """

    @functools.wraps(route)
    async def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return await route(*args, **kwargs)
            except TRANSIENT:
                UNDONE[route.__name__] += 1
                if attempt == ATTEMPTS - 1:
                    raise
                # Apart by chance, or two that have met would meet again.
                await asyncio.sleep(random.uniform(0, _BACKOFF_FIRST_S * 2**attempt))
        raise AssertionError("there is at least one attempt")

    return tried
