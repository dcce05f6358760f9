"""Keeps answers back until what they say is as far as was asked: on disk, or on replicas.

A server has one connection for each kind of wait, for all shards that it has, so that nobody waits
behind a wait that he has not asked for, and so that one wait serves all that were done before it.
It writes a barrier in each shard first: WAIT looks at the last write of its connection, and
everything that the server has done before the barrier comes before it on the way to the disk and to
the replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

from redis.exceptions import RedisError, ResponseError

from taximeter.meter.lanes.line import Line, drop, open_line
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.places.places import Places, asks
from taximeter.meter.places.redirects import PASSING, code_of
from taximeter.meter.places.standing import Standing
from taximeter.meter.server.handshake import Greeting, Life, greet_all
from taximeter.meter.server.trouble import is_final
from taximeter.meter.server.wait_poll import WaitPoll
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import NotConfirmed, ShardFenced, StoreError, StoreUnavailable
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script
from taximeter.meter.wire.waits import Goal, Wait

log: Final = logging.getLogger("taximeter.meter")

_LOG_PAUSE_S: Final = 1.0
_ANOTHER: Final = "the server that had done it is another one, or went back"


class Kept(Protocol):
    """A shard whose answers are kept back."""

    keys: ShardKeys
    pressure: Pressure
    tally: Tally

    def ask_again(self, batch: list[Pending], trouble: StoreError) -> None:
        """A server that is gone said that these were done: they are to be asked for under their
        ids.
        """

    def let_go(self, answers: int) -> None:
        """So many are not kept back any more."""


@dataclass(slots=True)
class Done:
    """An operation that a server has done and nobody was told of: what to tell, by when, and which
    server in which state has done it.
    """

    shard: Kept
    pending: Pending
    reply: bytes
    life: Life
    writes: int
    until: float


class Confirmer:
    """Confirms what was done on one server, `place`, for one kind of wait. `ended` is called when
    it has, after `leave` or `stop`.
    """

    def __init__(
        self,
        place: Any,
        places: Places,
        wait: Wait,
        settings: MeterSettings,
        ended: Callable[[Confirmer], None],
    ) -> None:
        waits = settings.waits
        assert waits is not None, "somebody waits"
        self._place = place
        self._places = places
        self._standing: Standing = place.standing
        self.wait: Final = wait
        self._goal: Goal = waits.goal(wait)
        self._timeout_s = waits.timeout_s
        self._call_timeout_s = settings.call_timeout_s
        self._pause_s = settings.retry_pause_s
        self._ended = ended
        self._leaving = False
        self.is_connected = False
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Done] = []
        self._group: list[Done] = []
        self._reached = (0,) * len(self._goal.needed)
        self._unconfirmed = 0
        self._logged_at = float("-inf")
        self._work = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"meter-confirm-{wait}")

    def add(self, shard: Kept, pending: Pending, reply: bytes, life: Life, writes: int) -> None:
        """Answer it when it is confirmed, or say that it was not within the time."""
        until = min(self._loop.time() + self._timeout_s, pending.deadline)
        self._waiting.append(Done(shard, pending, reply, life, writes, until))
        self._work.set()

    def give_back(self, shard: Kept) -> list[Pending]:
        """Forget what was done on a shard; returns what was not answered."""
        mine = [one for one in (*self._group, *self._waiting) if one.shard is shard]
        self._group = [one for one in self._group if one.shard is not shard]
        self._waiting = [one for one in self._waiting if one.shard is not shard]
        left = [one.pending for one in mine if one.pending.is_awaited]
        for pending in left:
            pending.sent = True
            pending.interrupt(StoreUnavailable("the meter was closed"), uncertain=True)
        shard.let_go(len(mine))
        return left

    def leave(self) -> None:
        """No shard lives here any more: end when nothing is kept back."""
        self._leaving = True
        self._work.set()

    async def stop(self) -> None:
        """Cut off what is under way; what is kept back stays for `give_back`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        line: Line | None = None
        known: dict[Kept, Life] = {}
        try:
            while True:
                if not self._group and not self._waiting:
                    if self._leaving:
                        break
                    self._work.clear()
                    await self._work.wait()
                    continue
                self._group += self._waiting
                self._waiting = []
                try:
                    async with asyncio.timeout(self._call_timeout_s):
                        if line is None:
                            known = {}
                            line = await open_line(self._place)
                            self.is_connected = True
                        await self._greet(line, known)
                    await self._confirm(line, known)
                    continue
                except (RedisError, StoreError, OSError, TimeoutError) as error:
                    await drop(line)
                    line, self.is_connected = None, False
                    self._places.heed(error)
                    self._expire(
                        f"{type(error).__name__} {error}".rstrip(), everything=is_final(error)
                    )
                    self._ask_elsewhere()
                except Exception as error:
                    # A defect must not strand callers: they learn of it, and this goes on.
                    await drop(line)
                    line, self.is_connected = None, False
                    self._expire(f"{type(error).__name__}: {error}", everything=True)
                await asyncio.sleep(self._pause_s)
        finally:
            self._ended(self)
            await drop(line)

    async def _greet(self, line: Line, known: dict[Kept, Life]) -> None:
        """Those shards are left in the group that the server admits us to, as it admitted those who
        had it done.
        """
        strangers = [shard for shard in _shards_of(self._group) if shard not in known]
        if not strangers:
            return
        found = await greet_all(line, [Greeting(shard.keys) for shard in strangers])
        for shard, said in zip(strangers, found, strict=True):
            if isinstance(said, Exception):
                self._refused(shard, said)
            else:
                known[shard] = said.life

    async def _confirm(self, line: Line, known: dict[Kept, Life]) -> None:
        poll, shards = WaitPoll(line, self._goal), _shards_of(self._group)
        if not shards:
            return
        try:
            async with asyncio.timeout(self._call_timeout_s):
                sent_at = monotonic()
                said = await poll.after(load_script("barrier"), [one.keys.meta for one in shards])
            for shard, reply in zip(shards, said, strict=True):
                if isinstance(reply, ResponseError):
                    known.pop(shard)
                    self._refused(shard, reply)
                else:
                    epoch, writes = reply
                    self._drop_foreign(shard, known[shard], epoch.decode(), int(writes or b"0"))
            while self._group:
                async with asyncio.timeout(self._call_timeout_s):
                    self._reached = await poll.answer()
                    if self._goal.is_met(self._reached):
                        if not self._standing.covers(sent_at):
                            await self._standing.prove(sent_at, line.peer)
                        self._succeed()
                    else:
                        self._expire(self._goal.missing(self._reached))
            async with asyncio.timeout(self._call_timeout_s):
                await poll.finish()
        finally:
            poll.stop()

    def _drop_foreign(self, shard: Kept, life: Life, epoch: str, writes: int) -> None:
        """What this server has not done cannot be confirmed here: the ids have to be asked for."""
        here = life._replace(epoch=epoch)

        def is_foreign(one: Done) -> bool:
            return one.shard is shard and not (one.life == here and one.writes <= writes)

        self._hand_back(filter(is_foreign, self._group), _ANOTHER)

    def _refused(self, shard: Kept, error: ShardFenced | ResponseError) -> None:
        """Nothing is confirmed of this shard here. Raises what is about the whole server."""
        mine = [one for one in self._group if one.shard is shard]
        why = f"{type(error).__name__} {error}".rstrip()
        if isinstance(error, ShardFenced) or code_of(error) in PASSING:
            self._places.heed(error)
            self._hand_back(mine, why)
        elif is_final(error):
            self._give_up(mine, why)
        else:
            raise error

    def _ask_elsewhere(self) -> None:
        """Of shards that have another server by now."""

        def is_here(shard: Kept) -> bool:
            if asks(self._place):
                return False  # For this once; the next call is sent where the slot is.
            try:
                return self._places.of(shard.keys.meta) is self._place
            except ResponseError:  # Nobody has it: it may come back here.
                return True

        gone = {shard for shard in _shards_of(self._group) if not is_here(shard)}
        self._hand_back((one for one in self._group if one.shard in gone), _ANOTHER)

    def _hand_back(self, dones: Iterable[Done], why: str) -> None:
        by_shard: dict[Kept, list[Pending]] = {}
        for one in self._take_out(dones):
            one.pending.sent = True
            by_shard.setdefault(one.shard, []).append(one.pending)
        for shard, batch in by_shard.items():
            shard.ask_again(batch, StoreUnavailable(why))
            shard.let_go(len(batch))

    def _take_out(self, dones: Iterable[Done]) -> list[Done]:
        """Of the group; what came meanwhile has its turn."""
        out = list(dones)
        ids = set(map(id, out))
        self._group = [one for one in self._group if id(one) not in ids]
        return out

    def _succeed(self) -> None:
        group, self._group = self._group, []
        for one in group:
            one.pending.answer(one.reply)
        self._note(group)

    def _note(self, group: list[Done]) -> None:
        """They are over: confirmed or not, they were done."""
        by_shard: dict[Kept, list[Done]] = {}
        for one in group:
            by_shard.setdefault(one.shard, []).append(one)
        now = self._loop.time()
        for shard, dones in by_shard.items():
            shard.tally.note([one.pending for one in dones], [one.reply for one in dones], now)
            shard.let_go(len(dones))

    def _expire(self, why: str, *, everything: bool = False) -> None:
        """Tell those whose time is over, or all, that they were done and not confirmed."""
        now = self._loop.time()
        late = [one for one in self._waiting if one.until <= now]
        self._waiting = [one for one in self._waiting if one.until > now]
        self._give_up([one for one in self._group if everything or one.until <= now] + late, why)

    def _give_up(self, dones: list[Done], why: str) -> None:
        if not dones:
            return
        self._take_out(dones)
        for one in dones:
            one.pending.fail(NotConfirmed(self.wait, why))
            one.shard.pressure.unconfirmed += 1
        self._note(dones)
        self._unconfirmed += len(dones)
        now = self._loop.time()
        if now - self._logged_at >= _LOG_PAUSE_S:
            self._logged_at = now
            log.error(
                "taximeter: shard %s: done, and not confirmed within %s s (%s): %s; %d so far",
                ", ".join(sorted({f"{one.shard.keys.shard}" for one in dones})),
                f"{self._timeout_s:g}",
                self.wait,
                why,
                self._unconfirmed,
            )


def _shards_of(group: list[Done]) -> list[Kept]:
    """In a fixed order, each once."""
    return list(dict.fromkeys(one.shard for one in group))


async def what_is_missing(connection: Any, keys: ShardKeys, goal: Goal, within_s: float) -> str:
    """Ask whether a write of now is confirmed within the time; empty when it is. Raises what
    redis-py raises.
    """
    poll = WaitPoll(connection, goal)
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    try:
        (said,) = await poll.after(load_script("barrier"), [keys.meta])
        if isinstance(said, Exception):
            raise said
        while True:
            reached = await poll.answer()
            if goal.is_met(reached) or loop.time() >= end:
                await poll.finish()
                return "" if goal.is_met(reached) else goal.missing(reached)
    finally:
        poll.stop()
