"""Does a request again that Postgres has undone for the sake of another one.

Locks are taken in one order (docs/architecture.md, "Locks"), so nobody should ever need this: it is
the second line, for statements that operators run by hand in an order of their own.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from taximeter.settler.books.retries import retry_transient

ATTEMPTS: Final = 5
_BACKOFF_FIRST_S: Final = 0.02
_BACKOFF_MAX_S: Final = 1.0

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
        return await retry_transient(
            lambda: route(*args, **kwargs),
            attempts=ATTEMPTS,
            first_s=_BACKOFF_FIRST_S,
            max_s=_BACKOFF_MAX_S,
            undone=lambda: UNDONE.update((route.__name__,)),
        )

    return tried
