"""The other sides: redis-py with one script call an operation, and the guide's function in
Postgres.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis

from bench.harness import BenchFailed, closed_loop
from bench.live import AVAILABLE, Account, request_ids
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script
from taximeter.meter.wire.usage import Usage
from taximeter.settler.books.named_sql import load_queries

AMOUNT: Final = 50
HELD: Final = 80
TTL_MS: Final = 60_000
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo")
PURPOSES: Final = 999
"""How many different purposes charges have: real requests differ, and nothing may profit here."""


def usage(number: int) -> Usage:
    """What the charge of this number is for. Made for each request, as a gateway does."""
    number %= PURPOSES
    return Usage(
        "llm_inference", MODELS[number % 3], {"provider": "openai", "tokens": 1000 + number}
    )


PAYLOADS: Final = tuple(usage(number).payload() for number in range(PURPOSES))
CONNECTIONS_MAX: Final = 200
"""Most connections of redis-py: with 1,000 callers it is faster so than with one for each."""
DEDUCT_CALLERS: Final = 100
DEDUCT_CONNECTIONS: Final = 16

_SQL: Final = load_queries("bench", "bench")


class RedisPy:
    """The same script with the same arguments, called for one operation at a time on redis-py's
    client and pool.

    The payload is encoded beforehand and replies are not parsed, so the client is the faster by
    that.
    """

    def __init__(
        self, url: str, keys: ShardKeys, accounts: Sequence[Account], label: str, callers: int
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=min(callers, CONNECTIONS_MAX), timeout=None
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._keys = keys.batch()
        self._sha = load_script("operate").sha
        self._accounts = itertools.cycle([(org, f"{org}/{user}") for org, user in accounts])
        self._ids = request_ids(label)
        self._payloads = itertools.cycle(PAYLOADS)

    async def charge(self) -> None:
        org_id, account = next(self._accounts)
        key = f"{org_id}/{next(self._ids)}"
        await self._call("charge", account, key, AMOUNT, 0, "", next(self._payloads))

    async def request(self) -> None:
        """Reserve, then commit."""
        org_id, account = next(self._accounts)
        key = f"{org_id}/{next(self._ids)}"
        await self._call("reserve", account, key, HELD, TTL_MS, "0a0b0c0d", "")
        await self._call("commit", account, key, AMOUNT, 0, "", next(self._payloads))

    async def aclose(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    async def _call(self, *operation: Any) -> None:
        replies = await self._redis.evalsha(
            self._sha, len(self._keys), *self._keys, "1", *operation
        )
        if not replies[0].startswith(b"1 "):
            raise BenchFailed(f"redis-py: {operation[0]} was answered {replies[0]!r}")


class Deductions:
    """deduct_credits as the guide's load test calls it: 100 workers, a pool of 16 connections, real
    commits.
    """

    def __init__(self, pool: Any, accounts: Sequence[Account], label: str) -> None:
        self._pool = pool
        self._accounts: Iterator[Account] = itertools.cycle(accounts)
        self._ids = request_ids(label)
        self._numbers = itertools.count()

    async def round(self, seconds: float) -> float:
        """Deductions a second."""
        done = await closed_loop(self.deduct, callers=DEDUCT_CALLERS, seconds=seconds)
        return done.per_second

    async def deduct(self) -> None:
        org_id, user_id = next(self._accounts)
        number = next(self._numbers) % PURPOSES
        metadata = f'{{"provider": "openai", "tokens": {1000 + number}}}'
        row = (org_id, user_id, AMOUNT, next(self._ids), metadata, MODELS[number % 3])
        if not await self._pool.fetchval(_SQL["deduct"], *row):
            raise BenchFailed(f"deduct_credits refused {org_id}/{user_id}")


async def open_deduction_pool(url: str) -> Any:
    """Sixteen connections, as the guide has them."""
    return await asyncpg.create_pool(url, min_size=DEDUCT_CONNECTIONS, max_size=DEDUCT_CONNECTIONS)


_FUNDED_AT_ONCE = 20_000


async def fund(conn: Any, accounts: Sequence[Account]) -> None:
    """Make the organisations and allocate AVAILABLE to every user, through the functions that
    operators call.
    """
    org_ids = sorted({org_id for org_id, _ in accounts})
    await conn.execute(_SQL["make_organizations"], org_ids, 10**12)
    for start in range(0, len(accounts), _FUNDED_AT_ONCE):
        some = accounts[start : start + _FUNDED_AT_ONCE]
        await conn.execute(
            _SQL["make_allocations"],
            [org_id for org_id, _ in some],
            [user_id for _, user_id in some],
            AVAILABLE,
        )


async def fund_at_once(pool: Any, accounts: Sequence[Account]) -> None:
    """The same for very many, past the triggers: what they keep besides is not there."""
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = 'replica'")
        for start in range(0, len(accounts), _FUNDED_AT_ONCE):
            some = accounts[start : start + _FUNDED_AT_ONCE]
            await conn.execute(
                _SQL["fund_at_once"],
                [org_id for org_id, _ in some],
                [user_id for _, user_id in some],
                AVAILABLE,
            )
    await pool.execute("ANALYZE")
