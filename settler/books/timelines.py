"""Knows which of two Postgres servers that go on from the same data is the later one, so that an
old primary which comes back is not taken for the ledger.

Each promotion of a standby begins a timeline, with a higher number than that of the primary before
it. What a process has heard of counts for all of its pools.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import asyncpg
from redis.exceptions import RedisError

from taximeter.meter.wire.keys import ShardKeys

_HEX: Final = 16
LOOK_EVERY_S: Final = 1.0


class NoPrimary(asyncpg.InterfaceError):
    """No server of this address takes writes now; one may be promoted any moment."""


class SupersededPostgres(asyncpg.InterfaceError):
    """This server was the primary, and another one was promoted since: nothing is read from it and
    nothing is written to it.
    """


def later_history(history: str | None, others: Iterable[str | None]) -> str | None:
    """The latest of `others` (system identifier/timeline) that is of the same system as `history`
    and later than it; None when there is none.
    """
    ours = _parts(history)
    if ours is None:
        return None
    found = [(parts[1], other) for other in others if (parts := _parts(other)) is not None
             and parts[0] == ours[0] and parts[1] > ours[1]]  # fmt: skip
    return max(found)[1] if found else None


def superseded(history: str, later: str) -> SupersededPostgres:
    """What to raise for a server of `history` when `later` was seen."""
    (_, ours), (_, theirs) = _parts(history) or ("", 0), _parts(later) or ("", 0)
    return SupersededPostgres(
        f"this Postgres is on timeline {ours}, and timeline {theirs} of the same data is in use: it"
        " is an old primary that came back. Nothing is read from it or written to it. Let it follow"
        " the new one; to go on with it instead, make it a standby and promote it"
    )


class Timelines:
    """The latest timeline of each system that this process has heard of. Pools that have joined
    replace their connections when a later one is heard of.
    """

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}
        self._pools: WeakSet[Any] = WeakSet()

    def join(self, pool: Any) -> None:
        """Let connections of this asyncpg pool be replaced in time."""
        self._pools.add(pool)

    async def note(self, history: str) -> None:
        """Hear of a history, of a server or as a shard remembers it."""
        parts = _parts(history)
        if parts is None:
            return
        known = self._latest.get(parts[0])
        if known is not None and later_history(known, [history]) is None:
            return
        self._latest[parts[0]] = history
        if known is not None:
            for pool in self._pools:
                await pool.expire_connections()

    def check(self, history: str) -> None:
        """Raise SupersededPostgres for a server of this history when a later one is known."""
        later = later_history(history, self._latest.values())
        if later is not None:
            raise superseded(history, later)


@asynccontextmanager
async def following(timelines: Timelines, redis: Any, prefix: str) -> AsyncIterator[None]:
    """Hear each second which Postgres the first shard has been seen with. A Redis that is away says
    nothing, and holds nothing up but the first look.
    """
    keys = ShardKeys(prefix=prefix, shard=0)

    async def look() -> None:
        with suppress(RedisError, OSError):
            for history in histories_of(await redis.hmget(keys.meta, "postgres", "ledger")):
                await timelines.note(history)

    async def look_again() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await look()

    await look()
    looking = asyncio.create_task(look_again())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def histories_of(fields: Iterable[bytes | None]) -> list[str]:
    """The histories in the fields `postgres` and `ledger` of a shard's meta."""
    return [text.decode("utf-8", "replace").partition(" ")[0] for text in fields if text]


def timeline_of(history: str) -> int:
    """The number of the timeline, for comparing those of one system; 0 for what is no history."""
    parts = _parts(history)
    return 0 if parts is None else parts[1]


def _parts(history: str | None) -> tuple[str, int] | None:
    system, slash, timeline = (history or "").partition("/")
    try:
        return (system, int(timeline, _HEX)) if system and slash else None
    except ValueError:
        return None
