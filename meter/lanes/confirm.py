"""Keeps answers back until what they say is as far as was asked: on disk, or on replicas.

One connection of its own for each kind of wait, so that nobody waits behind a wait that he has not
asked for, and so that one wait serves all that were done before it. It writes a barrier first: WAIT
looks at the last write of its connection, and everything that the shard has done before the barrier
comes before it on the way to the disk and to the replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.places.places import Places
from taximeter.meter.server.handshake import ShardIdentity, greet
from taximeter.meter.server.trouble import is_final
from taximeter.meter.server.wait_poll import WaitPoll
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import NotConfirmed, StoreError, StoreUnavailable
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script
from taximeter.meter.wire.waits import Goal, Wait

log: Final = logging.getLogger("taximeter.meter")

_LOG_PAUSE_S: Final = 1.0


@dataclass(slots=True)
class Done:
    """An operation that a server has done and nobody was told of: what to tell, by when, and which
    server in which state has done it.
    """

    pending: Pending
    reply: bytes
    server: tuple[str, str]
    """Epoch and run id."""
    writes: int
    until: float


class Confirmer:
    """Confirms what was done on one shard, for one kind of wait.

    `ask_again` takes operations of which a server that is gone said that they were done: they are
    asked for under their ids. `note_idle` is called when nobody waits any more.
    """

    def __init__(
        self,
        places: Places,
        keys: ShardKeys,
        wait: Wait,
        settings: MeterSettings,
        pressure: Pressure,
        ask_again: Callable[[list[Pending], StoreError], None],
        note_idle: Callable[[], None],
    ) -> None:
        waits = settings.waits
        assert waits is not None, "somebody waits"
        self._places = places
        self._keys = keys
        self._wait = wait
        self._goal: Goal = waits.goal(wait)
        self._timeout_s = waits.timeout_s
        self._call_timeout_s = settings.call_timeout_s
        self._pause_s = settings.retry_pause_s
        self._pressure = pressure
        self._ask_again = ask_again
        self._note_idle = note_idle
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Done] = []
        self._group: list[Done] = []
        self._reached = (0,) * len(self._goal.needed)
        self._logged_at = float("-inf")
        self._work = asyncio.Event()
        self._task = asyncio.create_task(
            self._run(), name=f"meter-shard-{keys.shard}-confirm-{wait}"
        )

    @property
    def busy(self) -> bool:
        """Whether answers are kept back."""
        return bool(self._waiting or self._group)

    def add(self, pending: Pending, reply: bytes, server: tuple[str, str], writes: int) -> None:
        """Answer it when it is confirmed, or say that it was not within the time."""
        until = min(self._loop.time() + self._timeout_s, pending.deadline)
        self._waiting.append(Done(pending, reply, server, writes, until))
        self._work.set()

    async def retire(self) -> list[Pending]:
        """Stop; returns what was not answered."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        left = [done.pending for done in (*self._group, *self._waiting)]
        self._group, self._waiting = [], []
        left = [pending for pending in left if not pending.future.done()]
        for pending in left:
            pending.sent = True
            pending.interrupt(StoreUnavailable("the meter was closed"), uncertain=True)
        return left

    async def _run(self) -> None:
        connection: Any = None
        server: ShardIdentity | None = None
        last: BaseException | None = None
        try:
            while True:
                if not self.busy:
                    self._note_idle()
                    self._work.clear()
                    await self._work.wait()
                self._group += self._waiting
                self._waiting = []
                try:
                    async with asyncio.timeout(self._call_timeout_s):
                        if connection is None:
                            place = self._places.of(self._keys.meta, last)
                            connection = place.connection_pool.make_connection()
                            await connection.connect()
                        if server is None:
                            server = await greet(connection, self._keys)
                    await self._confirm(connection, server)
                    continue
                except (RedisError, StoreError, OSError, TimeoutError) as error:
                    await drop(connection)
                    connection, server, last = None, None, error
                    self._places.heed(error)
                    self._expire(
                        f"{type(error).__name__} {error}".rstrip(), everything=is_final(error)
                    )
                except Exception as error:
                    # A defect must not strand callers: they learn of it, and this goes on.
                    await drop(connection)
                    connection, server = None, None
                    self._expire(f"{type(error).__name__}: {error}", everything=True)
                await asyncio.sleep(self._pause_s)
        finally:
            await drop(connection)

    def _drop_foreign(self, server: ShardIdentity, epoch: str, writes: int) -> None:
        """What this server has not done cannot be confirmed here: the ids have to be asked for."""
        here = (epoch, server.life.run_id)
        mine: list[Done] = []
        gone: list[Pending] = []
        for one in self._group:
            if one.server == here and one.writes <= writes:
                mine.append(one)
            else:
                one.pending.sent = True
                gone.append(one.pending)
        self._group = mine
        if gone:
            trouble = StoreUnavailable("the server that had done it is another one, or went back")
            self._ask_again(gone, trouble)

    async def _confirm(self, connection: Any, server: ShardIdentity) -> None:
        poll = WaitPoll(connection, self._goal)
        try:
            async with asyncio.timeout(self._call_timeout_s):
                epoch, writes = await poll.after(load_script("barrier"), [1, self._keys.meta])
            self._drop_foreign(server, epoch.decode(), int(writes or b"0"))
            while self._group:
                async with asyncio.timeout(self._call_timeout_s):
                    self._reached = await poll.answer()
                    if self._goal.is_met(self._reached):
                        self._succeed()
                    else:
                        self._expire(self._goal.missing(self._reached))
            async with asyncio.timeout(self._call_timeout_s):
                await poll.finish()
        finally:
            poll.stop()

    def _succeed(self) -> None:
        group, self._group = self._group, []
        for one in group:
            one.pending.answer(one.reply)

    def _expire(self, why: str, *, everything: bool = False) -> None:
        """Tell those whose time is over, or all, that they were done and not confirmed."""
        now = self._loop.time()
        over = [one for one in self._group if everything or one.until <= now]
        late = [one for one in self._waiting if one.until <= now]
        if not over and not late:
            return
        self._group = [one for one in self._group if not everything and one.until > now]
        self._waiting = [one for one in self._waiting if one.until > now]
        for one in (*over, *late):
            one.pending.fail(NotConfirmed(self._wait, why))
        self._pressure.unconfirmed += len(over) + len(late)
        if now - self._logged_at >= _LOG_PAUSE_S:
            self._logged_at = now
            log.error(
                "taximeter: shard %d: done, and not confirmed within %s s (%s): %s; %d so far",
                self._keys.shard,
                f"{self._timeout_s:g}",
                self._wait,
                why,
                self._pressure.unconfirmed,
            )


async def what_is_missing(connection: Any, keys: ShardKeys, goal: Goal, within_s: float) -> str:
    """Ask whether a write of now is confirmed within the time; empty when it is. Raises what
    redis-py raises.
    """
    poll = WaitPoll(connection, goal)
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    try:
        await poll.after(load_script("barrier"), [1, keys.meta])
        while True:
            reached = await poll.answer()
            if goal.is_met(reached) or loop.time() >= end:
                await poll.finish()
                return "" if goal.is_met(reached) else goal.missing(reached)
    finally:
        poll.stop()


async def drop(connection: Any) -> None:
    """Give it up."""
    if connection is not None:
        with suppress(Exception):  # It is given up either way.
            await connection.disconnect(nowait=True)
