"""Limits how often a caller may ask the admin API: counted in Redis, so that all of its processes
count as one. The LLM route is not counted: there the credits are the limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.errors import ApiError
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.errors import StoreError
from taximeter.meter.wire.scripts import load_script

logger = logging.getLogger("taximeter.api")

LIMIT = load_script("limit")
ANSWER_TIMEOUT_S = 0.25
REST_S = 1.0
CALLERS_MAX = 10_000
"""Most callers, each with a kind of request, that a process counts by itself."""
MINUTE_S = 60
HOUR_S = 3600
_BILLING = "/api/v1/org-billing"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` requests of a kind and caller within any `window_s`. 0 is no limit."""

    count: int
    window_s: int


def limits_of(settings: ApiSettings) -> dict[str, Limit]:
    """The limits by kind of request; none when they are switched off."""
    if not settings.rate_limits:
        return {}
    return {
        "reads": Limit(settings.rate_limit_reads_per_minute, MINUTE_S),
        "changes": Limit(settings.rate_limit_changes_per_minute, MINUTE_S),
        "subscriptions": Limit(settings.rate_limit_subscriptions_per_hour, HOUR_S),
        "admin_subscriptions": Limit(settings.rate_limit_admin_subscriptions_per_hour, HOUR_S),
        "purchases": Limit(settings.rate_limit_purchases_per_minute, MINUTE_S),
        "allocations": Limit(settings.rate_limit_allocations_per_minute, MINUTE_S),
    }


_KINDS = {
    ("POST", f"{_BILLING}/subscriptions"): "subscriptions",
    ("POST", f"{_BILLING}/credits/{{org_id}}/add"): "purchases",
    ("POST", f"{_BILLING}/credits/{{org_id}}/allocate"): "allocations",
}


def kind_of(method: str, template: str) -> str:
    """What a request counts as: one of three dear ones, a read, or another change."""
    if method in ("GET", "HEAD"):
        return "reads"
    return _KINDS.get((method, template), "changes")


class LocalCounts:
    """The same count of this process alone: when each caller's last requests were let in."""

    def __init__(self) -> None:
        self._seen: BoundedCache[str, deque[float]] = BoundedCache(CALLERS_MAX)

    def count(self, key: str, limit: Limit) -> int:
        """Count one request; milliseconds to wait, which is 0 for one that is let in."""
        now = time.monotonic()
        times = self._seen.get(key)
        if times is None:
            times = deque(maxlen=limit.count)
        self._seen.keep(key, times)
        if len(times) == limit.count and (wait_s := times[0] + limit.window_s - now) > 0:
            return int(wait_s * 1000) + 1
        times.append(now)
        return 0


class RateLimiter:
    """Lets requests in, or says when the next one will be.

    A Redis that is away, full or slow is not waited for: each process then counts for itself, from
    what it has seen itself, which is logged, and Redis is not tried again for a second.
    """

    def __init__(self, redis: Any, prefix: str, limits: Mapping[str, Limit]) -> None:
        self._redis = redis
        self._prefix = prefix
        self._limits = limits
        self._rests_until = float("-inf")
        self._local = LocalCounts()

    async def admit(self, kind: str, caller: str) -> None:
        """Count one request. Raises ApiError 429 that says how long to wait."""
        limit = self._limits.get(kind)
        if limit is None or limit.count == 0:
            return
        key = f"{self._prefix}:limit:{kind}:{caller}"
        # Counted here in any case, so that a Redis that becomes slow begins nobody's window anew.
        wait_ms = self._local.count(key, limit)
        if not wait_ms and time.monotonic() >= self._rests_until:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    arguments = [limit.count, limit.window_s * 1000]
                    wait_ms = await LIMIT.call(self._redis, [key], arguments)
            except (RedisError, StoreError, OSError, TimeoutError) as error:
                self._rests_until = time.monotonic() + REST_S
                logger.warning("rate limits are counted by each process for a second: %r", error)
        if wait_ms:
            wait_s = -(-int(wait_ms) // 1000)
            raise ApiError.of(
                "rate_limited",
                details={"kind": kind, "limit": limit.count, "window_s": limit.window_s},
                headers={"Retry-After": str(wait_s)},
                count=limit.count,
                kind=kind,
                window_s=limit.window_s,
                wait_s=wait_s,
            )

    async def give_back(self, kind: str, caller: str) -> None:
        """Take back the last request that was counted: it has come to nothing."""
        limit = self._limits.get(kind)
        if limit is None or limit.count == 0 or time.monotonic() < self._rests_until:
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._redis.ltrim(f"{self._prefix}:limit:{kind}:{caller}", 0, -2)
        except (RedisError, StoreError, OSError, TimeoutError) as error:
            logger.warning("a refused request stays counted: %r", error)
