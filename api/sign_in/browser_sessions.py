"""Keeps the sessions of browsers: a cookie that says nothing, and what it stands for in Postgres.

The provider's tokens never reach a browser. They are renewed here before they end, and forgotten
when somebody signs out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from taximeter.api.access.cookies import BrowserCookies
from taximeter.api.sign_in.tokens import CookieSecret, Tokens
from taximeter.api.sql import BROWSER_SESSIONS
from taximeter.api.web.background import TaskTracker
from taximeter.api.web.errors import ApiError
from taximeter.settler.books.stores import Pool

logger = logging.getLogger("taximeter.api")

RENEW_BEFORE_S: Final = 60.0
"""Tokens are renewed so long before they end, or in the last quarter of a shorter life."""
CLAIM_S: Final = 15.0
"""A process that asks for new tokens has so long before another one may; it gives up sooner."""
_LOOK_S: Final = 0.2


class SessionRefused(Exception):
    """The provider gives no more tokens for this session."""


class ProviderAway(Exception):
    """The provider does not answer, or cannot say; it may be asked again."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A session that is good, and when it ends whatever one does."""

    tokens: Tokens
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class _Found:
    secret: CookieSecret
    tokens: Tokens
    generation: int
    ends_at: datetime


class BrowserSessions:
    """All of this installation's. `renew` asks the provider for new tokens by those that it gave
    last, and raises SessionRefused or ProviderAway; None where tokens are as good as the session.
    """

    def __init__(
        self,
        pool: Pool,
        tracker: TaskTracker,
        cookies: BrowserCookies,
        *,
        lives_s: float,
        renew: Callable[[Tokens], Awaitable[Tokens]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cookies = cookies
        self.lives_s = lives_s
        self._pool = pool
        self._tracker = tracker
        self._renew = renew
        self._clock = clock
        self._renewing: dict[bytes, asyncio.Task[BrowserSession | None]] = {}

    async def begin(self, tokens: Tokens, user_id: str, before: str | None) -> str:
        """Begin a session, and end that of the cookie which this browser had before. Returns the
        new cookie, which nobody has seen; the session is durable. Raises asyncpg errors.
        """
        secret = CookieSecret.make()
        old = None if before is None else CookieSecret.read(before)
        await self._pool.execute(
            BROWSER_SESSIONS["insert"],
            secret.digest,
            secret.seal(tokens),
            user_id,
            self.lives_s,
            None if old is None else old.digest,
        )
        return secret.cookie

    async def find(self, cookie: str) -> BrowserSession | None:
        """The session of a cookie, its tokens renewed if they end soon; None when it is over.
        Raises ApiError 503 where that cannot be told, asyncpg errors.
        """
        found = await self._read(cookie)
        if found is None:
            return None
        left_s = found.tokens.ends_at - self._clock()
        lives_s = found.tokens.ends_at - found.tokens.made_at
        if left_s > min(RENEW_BEFORE_S, lives_s / 4):
            return BrowserSession(found.tokens, found.ends_at)
        if self._renew is None or found.tokens.refresh is None:
            return BrowserSession(found.tokens, found.ends_at) if left_s > 0 else None
        task = self._renewing.get(found.secret.digest)
        if task is None:
            # Beside the request: one whose caller leaves must not lose tokens that are good once.
            task = self._tracker.spawn(self._renewed(self._renew, found))
            self._renewing[found.secret.digest] = task
            task.add_done_callback(lambda _: self._renewing.pop(found.secret.digest, None))
        return await asyncio.shield(task)

    async def end(self, cookie: str) -> Tokens | None:
        """End a session, at once and in every process. Returns what it had. Raises asyncpg
        errors.
        """
        secret = CookieSecret.read(cookie)
        if secret is None:
            return None
        sealed = await self._pool.fetchval(BROWSER_SESSIONS["end"], secret.digest)
        return None if sealed is None else secret.open(sealed)

    async def _read(self, cookie: str) -> _Found | None:
        secret = CookieSecret.read(cookie)
        if secret is None:
            return None
        row = await self._pool.fetchrow(BROWSER_SESSIONS["find"], secret.digest)
        tokens = None if row is None else secret.open(row["sealed"])
        if row is None or tokens is None:
            return None
        return _Found(secret, tokens, row["generation"], row["ends_at"])

    async def _renewed(
        self, renew: Callable[[Tokens], Awaitable[Tokens]], found: _Found
    ) -> BrowserSession | None:
        digest, generation = found.secret.digest, found.generation
        if not await self._pool.fetchval(BROWSER_SESSIONS["claim"], digest, generation, CLAIM_S):
            return await self._of_another_process(found)
        try:
            tokens = await renew(found.tokens)
        except SessionRefused as error:
            logger.info("a session was not renewed by the identity provider: %s", error)
            await self._pool.execute(BROWSER_SESSIONS["end"], digest)
            return None
        except ProviderAway as error:
            logger.warning("a session could not be renewed: %s", error)
            await self._pool.execute(BROWSER_SESSIONS["release"], digest, generation)
            return self._meanwhile(found)
        sealed = found.secret.seal(tokens)
        ends_at = await self._pool.fetchval(BROWSER_SESSIONS["renew"], digest, sealed, generation)
        return None if ends_at is None else BrowserSession(tokens, ends_at)

    async def _of_another_process(self, found: _Found) -> BrowserSession | None:
        """What another process is being given; until then, what there is goes on being good."""
        ends = time.monotonic() + CLAIM_S
        while time.monotonic() < ends:
            if found.tokens.ends_at > self._clock():
                return BrowserSession(found.tokens, found.ends_at)
            await asyncio.sleep(_LOOK_S)
            now = await self._read(found.secret.cookie)
            if now is None:
                return None
            if now.generation != found.generation:
                return BrowserSession(now.tokens, now.ends_at)
        raise ApiError.of("identity_provider")

    def _meanwhile(self, found: _Found) -> BrowserSession:
        if found.tokens.ends_at > self._clock():
            return BrowserSession(found.tokens, found.ends_at)
        raise ApiError.of("identity_provider")
