"""Beats the heart of a settler, and steps in for others whose heart has stopped.

A settler that freezes in the middle of a transaction keeps its locks, and with them a shard, until
Postgres ends its session. The others see within a second that its beats have stopped, end that
session themselves, and go to work at once: what it had begun leaves nothing, and it finds out when
it wakes. Beats are counted, so no clock decides who is dead; a wall clock that is far from the
stores' is an alarm.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg
import structlog
from redis.exceptions import RedisError

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool
from taximeter.settler.status.heartbeats import CLOCK_ALARM_S
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import Bell

_SQL: Final = load_queries("heartbeats")

BEAT_EVERY_S: Final = 0.1
STOPPED_S: Final = 0.6
"""Whoever has not beaten for this long while others looked is taken for frozen or dead."""
LOOK_GAP_S: Final = 0.5
"""A watcher that was away for longer than this begins anew: it may have been frozen itself."""
FORGOTTEN_S: Final = 60.0
_END_WAIT_MS: Final = 200
"""How long to wait for each session to be gone, with what it has locked."""
CLOCK_EVERY_S: Final = 5.0
_SESSION: Final = "taximeter-settler"

log = structlog.get_logger("taximeter.settler")


def settler_name() -> str:
    """A name of this process that no other has: machine, process number, a random part."""
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{secrets.token_hex(2)}"


def session_name(settler: str) -> str:
    """The application_name of all its sessions in which it may lock something."""
    return f"{_SESSION} {settler}"


class Watch:
    """Tells from the counts of beats whose have stopped."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked_at = float("-inf")

    def look(self, beats: Mapping[str, int], now: float) -> Iterable[str]:
        """Those who have not beaten for STOPPED_S of regular looks. `now` is monotonic."""
        if now - self._looked_at > LOOK_GAP_S:
            self._seen = {}
        self._looked_at = now
        seen = {}
        for settler, count in beats.items():
            before = self._seen.get(settler)
            seen[settler] = before if before and before[0] == count else (count, now)
        self._seen = seen
        return [settler for settler, (_, since) in seen.items() if now - since >= STOPPED_S]


class Heartbeat:
    """Beats for one process. `pool` is its own, so that no long work of the process stops it; the
    bell is rung when what a frozen settler had locked is free.
    """

    def __init__(
        self, pool: Pool, redis: Any, activity: LoopActivity, settler: str, bell: Bell | None = None
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._activity = activity
        self._settler = settler
        self._bell = bell or Bell()
        self._watch = Watch()
        self._ended: set[str] = set()
        self._forgot_at = float("-inf")
        self.clock_off_s = 0.0

    async def beat(self) -> None:
        """Say that this settler lives, and end what those have locked who do not. Raises asyncpg
        errors.
        """
        signs = list(zip(*self._activity.signs(), strict=True))
        rows = await self._pool.fetch(_SQL["beat"], self._settler, *signs, self.clock_off_s)
        now = time.monotonic()
        stopped = set(self._watch.look({row["settler"]: row["beats"] for row in rows}, now))
        for settler in stopped:
            await self._end_sessions(settler)
        self._ended &= stopped
        if now - self._forgot_at > FORGOTTEN_S / 6:
            self._forgot_at = now
            await self._pool.execute(_SQL["forget_silent"], FORGOTTEN_S)

    async def _end_sessions(self, settler: str) -> None:
        try:
            ended = await self._pool.fetchval(
                _SQL["end_sessions"], session_name(settler), _END_WAIT_MS
            )
        except asyncpg.InsufficientPrivilegeError:
            # It logs in as somebody else: then Postgres ends its sessions, after a while.
            ended = 0
        if ended or settler not in self._ended:
            log.warning("stopped_settler", settler=settler, sessions_ended=ended)
        self._ended.add(settler)
        if ended:
            self._bell.ring()

    async def compare_clocks(self) -> None:
        """How far the wall clock of this machine is ahead of those of the stores. Raises asyncpg
        errors; a Redis that is away is left out.
        """
        off = [await self._ahead_of_postgres()]
        try:
            before = time.time()
            seconds, micros = await self._redis.time()
            off.append((before + time.time()) / 2 - seconds - micros / 1e6)
        except (RedisError, OSError):
            pass
        self.clock_off_s = max(off, key=abs)
        if abs(self.clock_off_s) > CLOCK_ALARM_S:
            log.error("clock", off_s=round(self.clock_off_s, 1), limit_s=CLOCK_ALARM_S)

    async def _ahead_of_postgres(self) -> float:
        before = time.time()
        theirs = float(await self._pool.fetchval(_SQL["read_clock"]))
        return (before + time.time()) / 2 - theirs

    async def stop(self) -> None:
        """Take the heartbeats of this settler away: it has ended, and is not missed. Raises asyncpg
        errors.
        """
        await self._pool.execute(_SQL["forget_settler"], self._settler)
