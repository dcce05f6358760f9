"""Looks at what is live once a second for as long as somebody watches, and shares each look among
all who watch the same. Nobody watches: nothing is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

import asyncpg
from asyncpg import Record

from taximeter.api.sql import LIVE
from taximeter.api.web.errors import ApiError
from taximeter.meter import AccountNotFound, Balance, Meter, MeterError
from taximeter.settler.books.stores import Pool

logger = logging.getLogger("taximeter.api")

EVERY_S: Final = 1.0
USERS_MAX: Final = 100
"""Members that one watcher sees."""
USERS_OF_ALL_MAX: Final = 2_000
"""Members of one organisation that are looked at together."""
OF_USER_MAX: Final = 8
WATCHERS_MAX: Final = 1_000
_TIMEOUT_S: Final = 1.0
_TROUBLES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    MeterError,
    OSError,
    TimeoutError,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found. `pool` is what Postgres said last, at `books_at`; None where it has none
    or has said nothing yet. `balances` are of those of `users` who have a live account. `is_live`:
    Redis has answered.
    """

    as_of: datetime
    books_at: datetime | None
    pool: Record | None
    users: frozenset[str]
    balances: Mapping[str, Balance]
    is_live: bool


@dataclass(slots=True)
class _Watched:
    """One organisation that somebody watches."""

    users: Counter[str] = field(default_factory=Counter)
    watchers: int = 0
    task: asyncio.Task[None] | None = None
    look: Look | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)


class LiveLooks:
    """The looks of one process. `stopped` is set when the process ends: watchers leave."""

    def __init__(
        self, pool: Pool, meter: Callable[[], Awaitable[Meter]], every_s: float = EVERY_S
    ) -> None:
        """`meter` gives the meter, or raises MeterError while Redis is away."""
        self._pool = pool
        self._meter = meter
        self._every_s = every_s
        self._watched: dict[str, _Watched] = {}
        self._of_user: Counter[str] = Counter()
        self.stopped = asyncio.Event()

    @property
    def watched(self) -> int:
        """How many organisations are looked at."""
        return len(self._watched)

    def stop(self) -> None:
        """Let all watchers leave, since the process ends."""
        self.stopped.set()

    async def aclose(self) -> None:
        """Stop what goes on."""
        tasks = [one.task for one in self._watched.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def refuse_more(self, user_id: str) -> None:
        """Raises ApiError 429 for too many watchers of one user, 503 for too many in all."""
        if self._of_user[user_id] >= OF_USER_MAX:
            raise ApiError(
                429,
                f"At most {OF_USER_MAX} live streams of one user; close one first",
                details={"limit": OF_USER_MAX},
                headers={"Retry-After": "5"},
            )
        if self._of_user.total() >= WATCHERS_MAX:
            raise ApiError(503, "Too many live streams; try again", headers={"Retry-After": "5"})

    @contextmanager
    def counting(self, user_id: str) -> Iterator[None]:
        """Count a watcher until the block ends."""
        self._of_user[user_id] += 1
        try:
            yield
        finally:
            self._of_user[user_id] -= 1
            if not self._of_user[user_id]:
                del self._of_user[user_id]

    async def once(self, org_id: str, user_ids: Iterable[str]) -> Look:
        """Look now."""
        return await self._look(org_id, list(user_ids)[:USERS_MAX], None)

    @asynccontextmanager
    async def watching(
        self, org_id: str, user_ids: Iterable[str]
    ) -> AsyncIterator[Callable[[], Awaitable[Look]]]:
        """A function that waits for the next look. The first one is soon."""
        users = list(dict.fromkeys(user_ids))[:USERS_MAX]
        watched = self._watched.setdefault(org_id, _Watched())
        watched.watchers += 1
        watched.users.update(users)
        watched.wanted.set()  # Whoever is new does not wait for the end of a second.
        if watched.task is None:
            watched.task = asyncio.create_task(self._go_on(org_id, watched))

        seen, is_first = watched.look, True

        async def following() -> Look:
            nonlocal seen, is_first
            while True:
                found, done = watched.look, watched.done
                if found is not None and found is not seen:
                    # One that had begun before knows nothing of who is new; the next one does.
                    was_early = is_first and not found.users.issuperset(users)
                    seen, is_first = found, False
                    if not was_early:
                        return found
                    continue
                assert watched.task is not None, "it was begun above"
                waiting = asyncio.ensure_future(done.wait())
                try:
                    await asyncio.wait({waiting, watched.task}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                if watched.task.done():
                    watched.task.result()  # Raises why.

        try:
            yield following
        finally:
            watched.watchers -= 1
            watched.users.subtract(users)
            watched.users += Counter()  # Without those of nobody.
            if not watched.watchers:
                self._watched.pop(org_id, None)
                watched.task.cancel()

    async def _go_on(self, org_id: str, watched: _Watched) -> None:
        while True:
            watched.wanted.clear()
            users = [user for user, _ in watched.users.most_common(USERS_OF_ALL_MAX)]
            watched.look = await self._look(org_id, users, watched.look)
            # Wakes those who wait, and nobody who comes later.
            watched.done.set()
            watched.done = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await watched.wanted.wait()

    async def _look(self, org_id: str, users: list[str], before: Look | None) -> Look:
        as_of = datetime.now(UTC)
        books, live = await asyncio.gather(
            _bounded(lambda: self._pool.fetchrow(LIVE["pool"], org_id)),
            _bounded(lambda: self._balances(org_id, users)),
            return_exceptions=True,
        )
        if isinstance(books, BaseException):
            _expect(books)
            books_at = None if before is None else before.books_at
            pool = None if before is None else before.pool
        else:
            books_at, pool = as_of, books
        balances: Mapping[str, Balance] = {}
        if isinstance(live, BaseException):
            _expect(live)
        else:
            balances = live
        is_live = not isinstance(live, BaseException)
        return Look(as_of, books_at, pool, frozenset(users), balances, is_live)

    async def _balances(self, org_id: str, users: list[str]) -> dict[str, Balance]:
        """Of those who have a live account. Raises MeterError while Redis does not tell."""
        meter = await self._meter()
        if not users:
            await meter.ready()
        found = await asyncio.gather(
            *(meter.balance(org_id, user) for user in users), return_exceptions=True
        )
        balances = {}
        for user, balance in zip(users, found, strict=True):
            if isinstance(balance, Balance):
                balances[user] = balance
            elif not isinstance(balance, AccountNotFound):
                raise balance
        return balances


async def _bounded(work: Callable[[], Awaitable[T]]) -> T:
    """Work that is begun here: who stops watching may cancel this before it has its first turn."""
    async with asyncio.timeout(_TIMEOUT_S):
        return await work()


def _expect(error: BaseException) -> None:
    """Raise what is no store that is away."""
    if not isinstance(error, _TROUBLES):
        raise error
    logger.warning("live figures: %s: %s", type(error).__name__, error)
