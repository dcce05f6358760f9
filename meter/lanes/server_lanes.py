"""Sends what waits for the shards of one server over a few connections, several shards in a write.

A lane owns one connection and has one write in flight, which bounds the calls in flight; a lost
reply costs that lane its connection. A write has a script call for each shard in it, and each reply
is given to its own shard: an error in one is news of that shard alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from math import inf
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.lanes.confirm import Confirmer
from taximeter.meter.lanes.line import Line, drop, open_line
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.script_call import Answers, OutOfStep, answers_all, first_call, go_on
from taximeter.meter.lanes.shard import ShardClient, fail
from taximeter.meter.places.places import Places, name_of
from taximeter.meter.places.redirects import code_of
from taximeter.meter.places.standing import Standing
from taximeter.meter.server.acknowledged import Told
from taximeter.meter.server.connect import Vetted
from taximeter.meter.server.handshake import Life, greet_all
from taximeter.meter.server.permissions import MissingPermission
from taximeter.meter.server.trouble import is_final, may_have_written
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import (
    ShardFenced,
    StoreError,
    StoreUnavailable,
    UnsafeServer,
)
from taximeter.meter.wire.waits import Wait

# Fewer than this are not worth a call of their own. Above it lanes share evenly what waits and what
# is in flight, so that the server works on one part while this process packs the other: all in one
# call halves the rate.
BATCH_SPLIT_MIN = 16
# What is about one slot. Whatever else a server refuses may be better on a new connection, which
# may lead to another server.
_OF_A_SLOT = frozenset(("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"))


class _Part:
    """What a write has of one shard."""

    __slots__ = (
        "batch", "before", "done", "is_sound", "life", "packed", "shard", "taken", "talk",
    )  # fmt: skip

    shard: ShardClient
    batch: list[Pending]
    taken: int
    done: bool
    """Whether everybody in it was answered or put back."""
    is_sound: bool
    """Whether a connection to the server is of use, as far as this shard was told."""
    life: Life
    before: Told
    packed: bytes
    talk: Generator[bytes, Any, Answers] | None
    """What is said after the first call, where its reply makes that necessary."""

    def __init__(self, shard: ShardClient) -> None:
        self.shard = shard
        self.batch = []
        self.taken = 0
        self.done = False
        self.is_sound = True
        self.talk = None


class ServerLanes:
    """The lanes of one server, `place`, and who confirms what it has done; of the one that a slot
    is on its way to when `once`: they end as soon as nothing waits. `ended` is called when the
    lanes have, and when all has (`is_over`).
    """

    def __init__(
        self,
        place: Any,
        places: Places,
        vetted: Vetted,
        settings: MeterSettings,
        ended: Callable[[ServerLanes], None],
        *,
        once: bool = False,
    ) -> None:
        self.place = place
        self._places = places
        self._vetted = vetted
        self._settings = settings
        self._ended = ended
        self._leaving = once
        self._loop = asyncio.get_running_loop()
        # Shards with operations that wait, in the order in which they are served.
        self._ring: deque[ShardClient] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._in_flight = 0
        self._lines: set[Line] = set()
        self._watching: asyncio.TimerHandle | None = None
        self._standing: Standing = place.standing
        self._confirmers: dict[Wait, Confirmer] = {}
        self._lanes = [
            asyncio.create_task(self._lane(), name=f"meter-lane-{number}")
            for number in range(1 if once else settings.lanes_per_server)
        ]
        self._running = len(self._lanes)

    def add(self, shard: ShardClient) -> None:
        """It has operations that wait, and is not here yet."""
        self._ring.append(shard)
        if self._idle:
            self._wake()

    def remove(self, shard: ShardClient) -> None:
        """Somebody else will come for them."""
        self._ring.remove(shard)

    def leave(self) -> None:
        """No shard lives here any more: end when nothing waits."""
        self._leaving = True
        while self._idle:
            self._wake()
        for confirmer in self._confirmers.values():
            confirmer.leave()

    async def stop(self) -> None:
        """Cut off what is under way; it goes back to its shards, or is kept for them."""
        if self._watching is not None:
            self._watching.cancel()
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        await asyncio.gather(*(one.stop() for one in self._confirmers.values()))

    @property
    def connections(self) -> int:
        """How many its lanes have, and who confirms."""
        return len(self._lines) + sum(one.is_connected for one in self._confirmers.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self._running and not self._confirmers

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                break

    async def _lane(self) -> None:
        settings = self._settings
        line: Line | None = None
        known: dict[ShardClient, Life] = {}
        pause_s = settings.retry_pause_s
        try:
            while True:
                parts = self._take() or await self._wait_for_work()
                if not parts:
                    if self._leaving and not self._ring:
                        break
                    continue
                try:
                    if line is not None and line.lost is not None:
                        await self._drop(line)
                        line = None
                    if line is None:
                        known = {}
                    strangers = [part for part in parts if part.shard not in known]
                    if strangers:
                        async with asyncio.timeout(settings.call_timeout_s):
                            line = line or await self._connect()
                            await self._greet(line, strangers, known)
                    assert line is not None, "who is not known is greeted on a new one"
                    await self._exchange(line, parts, known)
                    pause_s = settings.retry_pause_s
                    for part in parts:
                        if part.shard.acknowledged.has_news:
                            part.is_sound &= await self._report(line, part.shard)
                    for part in parts:
                        if not part.is_sound:
                            await self._drop(line)
                            line = None
                            break
                    continue
                except asyncio.CancelledError:
                    trouble = StoreUnavailable("the meter was closed")
                    _put_back(parts, trouble, uncertain=True)
                    raise
                except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
                    await self._drop(line)
                    line = None
                    self._places.heed(error)
                    trouble = _trouble(error)
                    if is_final(error):
                        _fail(parts, trouble, done=may_have_written(error))
                        continue
                    _put_back(parts, trouble, uncertain=not isinstance(error, ResponseError))
                except Exception as error:
                    # A defect must not strand callers: they learn of it, and the lane goes on.
                    await self._drop(line)
                    line = None
                    _fail(parts, StoreError(f"{type(error).__name__}: {error}"), done=True)
                    continue
                finally:
                    for part in parts:
                        self._in_flight -= part.taken
                        part.shard.end(part.taken)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, settings.retry_pause_max_s)
        finally:
            self._running -= 1
            self._note_ended()
            await self._drop(line)

    def _confirmer(self, wait: Wait) -> Confirmer:
        found = self._confirmers.get(wait)
        if found is None:
            found = self._confirmers[wait] = Confirmer(
                self.place, self._places, wait, self._settings, self._confirmer_ended
            )
            if self._leaving:
                found.leave()
        return found

    def _confirmer_ended(self, confirmer: Confirmer) -> None:
        del self._confirmers[confirmer.wait]
        self._note_ended()

    def _note_ended(self) -> None:
        if not self._running:
            self._ended(self)

    async def _connect(self) -> Line:
        line = await open_line(self.place)
        self._lines.add(line)
        return line

    async def _drop(self, line: Line | None) -> None:
        if line is not None:
            self._lines.discard(line)
            await drop(line)

    async def _wait_for_work(self) -> list[_Part]:
        if self._leaving:
            return []
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle
        return self._take()

    def _take(self) -> list[_Part]:
        """This lane's share of what waits. Shards take turns; one that has more than its part of a
        write has the rest of it when the others have had theirs.
        """
        ring = self._ring
        if not ring:
            return []
        settings = self._settings
        waiting = self._in_flight
        for shard in ring:
            waiting += shard.waiting
        share = -(-waiting // settings.lanes_per_server)
        left = min(settings.batch_max, max(share, BATCH_SPLIT_MIN))
        now = self._loop.time()
        parts: dict[ShardClient, _Part] = {}
        while ring and left > 0:
            most = max(left // len(ring), BATCH_SPLIT_MIN)
            for _ in range(len(ring)):
                shard = ring.popleft()
                part = parts.get(shard)
                if part is None:
                    part = parts[shard] = _Part(shard)
                taken = shard.take(most if most < left else left, now, part.batch)
                part.taken += taken
                left -= taken
                if shard.waiting:
                    ring.append(shard)
                else:
                    shard.left_out()
                if left <= 0:
                    break
        if ring and self._idle:
            self._wake()
        found = [part for part in parts.values() if part.taken]
        for part in found:
            self._in_flight += part.taken
        return found

    async def _greet(self, line: Line, parts: list[_Part], known: dict[ShardClient, Life]) -> None:
        """Also on a server that nobody may use yet, what it has lost is found and reported."""
        strangers = [part for part in parts if part.shard not in known]
        greetings = [part.shard.greeting for part in strangers]
        for part, found in zip(strangers, await greet_all(line, greetings), strict=True):
            shard = part.shard
            try:
                if isinstance(found, Exception):
                    if isinstance(found, ShardFenced):
                        if shard.acknowledged.has_news:
                            await self._report(line, shard)
                        found = _of_server(name_of(self.place), found)
                    raise found
                await self._vetted.check(self.place, shard.keys.meta, found.life.run_id)
            except (ShardFenced, MissingPermission, UnsafeServer, ResponseError) as error:
                self._refused(part, error, known)
            else:
                known[shard] = shard.greeted(found)

    async def _report(self, line: Line, shard: ShardClient) -> bool:
        """Tell the guardian what was lost; False when that has to be tried again elsewhere."""
        shard.pressure.missing = shard.acknowledged.missing
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                await shard.acknowledged.report(line)
        except ResponseError:  # It cannot be left there now: with the next call.
            return True
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def _exchange(
        self, line: Line, parts: list[_Part], known: dict[ShardClient, Life]
    ) -> None:
        """One write for all of them. Everybody in it is answered, handed to who confirms it, or put
        back. Raises what is about the connection, or when the server may have been replaced before
        it answered: what is not answered yet is in doubt then.
        """
        asking = []
        for part in parts:
            if not part.done:
                shard = part.shard
                part.life, part.before = known[shard], shard.acknowledged.told
                packed = first_call(shard.names, part.life, part.batch)
                if packed is None:
                    part.done = True
                else:
                    part.packed = packed
                    asking.append(part)
        while asking:
            sent_at = monotonic()
            answers = line.ask([part.packed for part in asking])
            if self._watching is None:
                self._watch()
            lost: Exception | None = None
            try:
                await answers
            except Exception as error:
                lost = error
            replies = line.replies()
            if replies and not self._standing.covers(sent_at):
                await self._standing.prove(sent_at, line.peer)
            again = self._give(asking, replies, known)
            if lost is not None:
                raise lost
            asking = again

    def _give(
        self, asking: list[_Part], replies: list[Any], known: dict[ShardClient, Life]
    ) -> list[_Part]:
        """Give each shard the reply to its call, as far as they came; returns those that have
        another call to make.
        """
        again = []
        for part, reply in zip(asking, replies, strict=False):
            if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                raise reply
            if self._goes_on(part, reply, known):
                again.append(part)
        return again

    def _goes_on(self, part: _Part, reply: Any, known: dict[ShardClient, Life]) -> bool:
        """Give a shard the reply to its call; True when there is another call to be made."""
        shard = part.shard
        try:
            if part.talk is not None:
                part.packed = part.talk.send(reply)
            elif answers_all(reply, part.batch):
                writes = int(reply.pop())
                shard.answer(*(part.batch, reply, writes, part.before, part.life), self._confirmer)
                part.done = True
                return False
            else:
                part.talk = go_on(shard.names, part.life, part.batch, reply)
                part.packed = next(part.talk)
            return True
        except StopIteration as end:
            answered, replies, writes = end.value
            shard.answer(answered, replies, writes, part.before, part.life, self._confirmer)
            part.done = True
        except (ShardFenced, ResponseError) as error:
            self._refused(part, error, known)
        except (OutOfStep, StoreUnavailable) as error:
            fail(part.batch, StoreError(f"{type(error).__name__}: {error}"), done=True)
            part.done = True
            if isinstance(error, OutOfStep):
                raise RedisConnectionError(f"whose replies are these? {error}") from error
        return False

    def _watch(self) -> None:
        """Give up a line whose replies are overdue, and look again when the next may be."""
        self._watching = None
        since = self._loop.time() - self._settings.call_timeout_s
        for line in self._lines:
            if line.sent_at <= since:
                line.give_up(TimeoutError())
        first = min((line.sent_at for line in self._lines), default=inf)
        if first < inf:
            when = first + self._settings.call_timeout_s
            self._watching = self._loop.call_at(when, self._watch)

    def _refused(
        self, part: _Part, error: StoreError | ResponseError, known: dict[ShardClient, Life]
    ) -> None:
        """Nothing of this shard was done; that says nothing of the others."""
        shard = part.shard
        known.pop(shard, None)
        part.done = True
        if isinstance(error, StoreError):
            shard.put_back(part.batch, error, uncertain=False)
        else:
            self._places.heed(error)
            if is_final(error):
                fail(part.batch, _trouble(error), done=may_have_written(error))
                return
            shard.put_back(part.batch, _trouble(error), uncertain=False)
            part.is_sound = code_of(error) in _OF_A_SLOT
        shard.refused(error)


def _trouble(error: BaseException) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(f"{type(error).__name__} {error}".rstrip())


def _put_back(parts: list[_Part], trouble: StoreError, *, uncertain: bool) -> None:
    for part in parts:
        if not part.done:
            part.done = True
            part.shard.put_back(part.batch, trouble, uncertain=uncertain)


def _fail(parts: list[_Part], error: StoreError, *, done: bool) -> None:
    for part in parts:
        if not part.done:
            part.done = True
            fail(part.batch, error, done=done)


def _of_server(name: str, refused: ShardFenced) -> ShardFenced:
    """Named, where there are several."""
    return ShardFenced(f"{name}: {refused}") if name else refused
