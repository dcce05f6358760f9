"""Queues the operations of one shard, bounded, and sends what waits there over a few connections.

What callers ask for while a call is in flight becomes the next call, so batches grow with load and
a lone caller waits for nobody. A lane owns one connection and has one call in flight, which bounds
the calls in flight; a lost reply costs that lane its connection, and its operations go back to the
front of the queue under the same ids.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from taximeter.meter.lanes.confirm import Confirmer, drop
from taximeter.meter.lanes.fair_queue import FairQueue
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.lanes.script_call import run_batch
from taximeter.meter.places.places import Places
from taximeter.meter.server.acknowledged import Acknowledged
from taximeter.meter.server.connect import Vetted
from taximeter.meter.server.handshake import Life, ShardIdentity, greet
from taximeter.meter.server.permissions import MissingPermission
from taximeter.meter.server.trouble import is_final, may_have_written
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import (
    ShardFenced,
    StoreError,
    StoreUnavailable,
    UnsafeServer,
)
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import OPEN_HOLDS_MAX
from taximeter.meter.wire.operations import TAKES_CREDIT, Operation
from taximeter.meter.wire.waits import Wait

# Fewer than this are not worth a call of their own. Above it lanes share evenly what waits and what
# is in flight, so that the server works on one part while this process packs the other: all in one
# call halves the rate.
BATCH_SPLIT_MIN = 16
# Calls of every lane that are filled first come first served: turns cost more than an append.
FRONT_ROUNDS = 2


class ShardClient:
    """Queue and lanes of one shard. Its server is asked for with every new connection: it may be
    another one by then.
    """

    def __init__(
        self,
        places: Places,
        vetted: Vetted,
        keys: ShardKeys,
        check_count: Callable[[str], None],
        settings: MeterSettings,
    ) -> None:
        self.keys = keys
        self._check_count = check_count
        self._places = places
        self._vetted = vetted
        self._settings = settings
        self._waits = settings.waits
        # Kept, because asking for the running loop costs a system call on some Pythons.
        self._loop = asyncio.get_running_loop()
        # What the next calls take, as it came; what is beyond them waits in the fair queue, for its
        # turn. While nobody floods, nothing is ever there.
        self._queue: deque[Pending] = deque()
        a_round = settings.batch_max * settings.lanes_per_shard
        self._front_max = min(FRONT_ROUNDS * a_round, settings.queue_max)
        self._beyond = FairQueue()
        self.pressure = Pressure()
        self.acknowledged = Acknowledged(keys)
        self.open_holds_max = OPEN_HOLDS_MAX
        self._life: Life | None = None
        self._confirmers: dict[Wait, Confirmer] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        self._in_flight = 0
        self._lanes = [
            asyncio.create_task(self._lane(), name=f"meter-shard-{keys.shard}-lane-{number}")
            for number in range(settings.lanes_per_shard)
        ]

    def submit(self, operation: Operation, *, in_doubt: bool = False) -> asyncio.Future[bytes]:
        """Queue an operation; the future gives its reply as the script wrote it. `in_doubt` when it
        was sent before and may have been done.

        Raises Overloaded when the queue is full, TooManyForAccount when this account is the reason:
        nothing was sent then.
        """
        settings = self._settings
        can_wait = operation.op in TAKES_CREDIT or operation.op == "touch"
        if self._beyond.waiting or len(self._queue) >= self._front_max:
            room = 1 if can_wait else 2
            self._beyond.admit(
                operation.account,
                len(self._queue),
                room * settings.queue_max,
                room * settings.account_queue_max,
                self.pressure.refused,
            )
        loop = self._loop
        patience = settings.take_timeout_s if can_wait else settings.resolve_timeout_s
        future: asyncio.Future[bytes] = loop.create_future()
        now = loop.time()
        pending = Pending(
            operation, now, now + patience, future, uncertain=in_doubt, life=self._life
        )
        self.adopt(pending)
        return future

    def adopt(self, pending: Pending) -> None:
        """Queue what was submitted already, here or to another shard."""
        if self._beyond.waiting or len(self._queue) >= self._front_max:
            self._beyond.add(pending)
        else:
            self._queue.append(pending)
        self._drained.clear()
        self._wake()

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                break

    @property
    def waiting(self) -> int:
        """How many operations wait."""
        return len(self._queue) + self._beyond.waiting

    async def aclose(self, deadline: float) -> None:
        """Finish what is queued before the deadline, a time of the loop, then stop; what is left
        fails.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._drained.wait()
        for pending in await self.retire():
            pending.give_up()

    async def retire(self) -> list[Pending]:
        """Stop; returns what was not answered, for the shards that there are now."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        left = list(self._queue)
        self._queue.clear()
        left += [self._beyond.take() for _ in range(self._beyond.waiting)]
        for confirmer in self._confirmers.values():
            left += await confirmer.retire()
        return left

    async def _lane(self) -> None:
        settings = self._settings
        place: Any = None
        connection: Any = None
        server: ShardIdentity | None = None
        last: BaseException | None = None
        pause_s, call_timeout_s = settings.retry_pause_s, settings.call_timeout_s
        try:
            while True:
                batch = self._take() or await self._wait_for_work()
                if not batch:
                    continue
                self._in_flight += len(batch)
                try:
                    async with asyncio.timeout(call_timeout_s):
                        if connection is None:
                            place = self._places.of(self.keys.meta, last)
                            connection = place.connection_pool.make_connection()
                            await connection.connect()
                        if server is None:
                            server = await self._greet(connection, place)
                        await self._call(connection, server, batch)
                    pause_s = settings.retry_pause_s
                    if self.acknowledged.has_news and not await self._report(connection):
                        await drop(connection)
                        connection, server = None, None
                    continue
                except (ShardFenced, MissingPermission, UnsafeServer) as error:
                    server = None
                    self._put_back(batch, error, uncertain=False)
                except asyncio.CancelledError:
                    trouble = StoreUnavailable("the meter was closed")
                    self._put_back(batch, trouble, uncertain=True)
                    raise
                except (RedisError, OSError, TimeoutError) as error:
                    await drop(connection)
                    connection, server, last = None, None, error
                    self._places.heed(error)
                    trouble = StoreUnavailable(f"{type(error).__name__} {error}".rstrip())
                    if is_final(error):
                        _fail(batch, trouble, done=may_have_written(error))
                        continue
                    self._put_back(batch, trouble, uncertain=not isinstance(error, ResponseError))
                except Exception as error:
                    # A defect must not strand callers: they learn of it, and the lane goes on.
                    await drop(connection)
                    connection, server = None, None
                    _fail(batch, StoreError(f"{type(error).__name__}: {error}"), done=True)
                    continue
                finally:
                    self._in_flight -= len(batch)
                    self._note_drained()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, settings.retry_pause_max_s)
        finally:
            await drop(connection)

    async def _greet(self, connection: Any, place: Any) -> ShardIdentity:
        """Also on a server that nobody may use yet, what it has lost is found and reported."""
        try:
            server = await greet(connection, self.keys, self._check_count, self.acknowledged)
        except ShardFenced:
            if self.acknowledged.has_news:
                await self._report(connection)
            raise
        await self._vetted.check(place, self.keys.meta, server.life.run_id)
        self.open_holds_max, self._life = server.open_holds_max, server.life
        return server

    async def _report(self, connection: Any) -> bool:
        """Tell the guardian what was lost; False when that has to be tried again elsewhere."""
        self.pressure.missing = self.acknowledged.missing
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                await self.acknowledged.report(connection)
        except ResponseError:  # It cannot be left there now: with the next call.
            return True
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def _call(self, connection: Any, server: ShardIdentity, batch: list[Pending]) -> None:
        """One script call; everybody in it is answered, or handed to who confirms it."""
        life, before = server.life, self.acknowledged.told
        answered, replies, writes = await run_batch(connection, self.keys.batch(), life, batch)
        if not answered:
            return
        waits = self._waits
        if waits is None:
            for pending, reply in zip(answered, replies, strict=True):
                pending.answer(reply)
        else:
            done = (life.epoch, life.run_id)
            for pending, reply in zip(answered, replies, strict=True):
                wait = waits.of(pending.operation.op)
                if wait == "none" or reply.startswith(b"-"):
                    pending.answer(reply)
                elif not pending.future.done():
                    self._confirmer(wait).add(pending, reply, done, writes)
        self.acknowledged.note(before, life.epoch, writes)

    def _confirmer(self, wait: Wait) -> Confirmer:
        found = self._confirmers.get(wait)
        if found is None:
            made = Confirmer(
                self._places,
                self.keys,
                wait,
                self._settings,
                self.pressure,
                self._ask_again,
                self._note_drained,
            )
            found = self._confirmers[wait] = made
        return found

    def _ask_again(self, batch: list[Pending], trouble: StoreError) -> None:
        self._put_back(batch, trouble, uncertain=True)
        self._wake()

    def _note_drained(self) -> None:
        if not self._queue and not self._beyond.waiting and not self._in_flight:
            if any(confirmer.busy for confirmer in self._confirmers.values()):
                return
            self._drained.set()

    async def _wait_for_work(self) -> list[Pending]:
        self._note_drained()
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle
        return self._take()

    def _take(self) -> list[Pending]:
        """This lane's share of what waits, less what is past its deadline or pointless."""
        queue, beyond = self._queue, self._beyond
        waiting = len(queue) + beyond.waiting + self._in_flight
        share = -(-waiting // self._settings.lanes_per_shard)
        batch_max = min(self._settings.batch_max, max(share, BATCH_SPLIT_MIN))
        batch: list[Pending] = []
        now = self._loop.time()
        while len(batch) < batch_max:
            if not queue:
                if not beyond.waiting:
                    break
                queue.extend(beyond.take() for _ in range(min(beyond.waiting, batch_max)))
            pending = queue.popleft()
            if pending.future.cancelled() and pending.pointless:
                continue
            if pending.deadline < now:
                pending.give_up()
                continue
            batch.append(pending)
        if batch:
            self.pressure.note_waits(now - batch[0].queued_at, len(batch))
        return batch

    def _put_back(self, batch: list[Pending], trouble: StoreError, *, uncertain: bool) -> None:
        """To the front of the queue again, unless answered, pointless or past its deadline."""
        now = self._loop.time()
        for pending in reversed(batch):
            pending.interrupt(trouble, uncertain=uncertain)
            if pending.pointless or (pending.future.done() and not pending.future.cancelled()):
                continue
            if pending.deadline <= now:
                pending.give_up()
            else:
                self._queue.appendleft(pending)


def _fail(batch: list[Pending], error: StoreError, *, done: bool) -> None:
    """Asking again would not help; `done` when the call may have had its effect all the same."""
    for pending in batch:
        pending.interrupt(error, uncertain=done)
        pending.refuse(error)
