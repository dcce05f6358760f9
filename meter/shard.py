"""One shard as the client sees it: a bounded queue, and lanes that send what waits there.

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

from taximeter.meter.calls import run_batch
from taximeter.meter.crowd import Crowd
from taximeter.meter.errors import (
    ShardFenced,
    StoreError,
    StoreUnavailable,
)
from taximeter.meter.faults import is_final
from taximeter.meter.handshake import greet
from taximeter.meter.keys import ShardKeys
from taximeter.meter.operations import TAKES_CREDIT, Operation
from taximeter.meter.pending import Pending
from taximeter.meter.pressure import Pressure
from taximeter.meter.settings import MeterSettings
from taximeter.meter.waits import NotConfirmed

# Fewer than this are not worth a call of their own. Above it lanes share evenly what waits and what
# is in flight, so that the server works on one part while this process packs the other: all in one
# call halves the rate.
BATCH_SPLIT_MIN = 16
# Calls of every lane that are filled first come first served: turns cost more than an append.
FRONT_ROUNDS = 2


class ShardClient:
    """Queue and lanes of one shard. `pool` is redis-py's, which its releases type differently."""

    def __init__(
        self,
        pool: Any,
        keys: ShardKeys,
        check_count: Callable[[str], None],
        settings: MeterSettings,
    ) -> None:
        self.keys = keys
        self._check_count = check_count
        self._pool = pool
        self._settings = settings
        self._waits = settings.waits
        # Kept, because asking for the running loop costs a system call on some Pythons.
        self._loop = asyncio.get_running_loop()
        # What the next calls take, as it came; what is beyond them waits in the crowd, for its
        # turn. While nobody floods, nothing is ever there.
        self._queue: deque[Pending] = deque()
        a_round = settings.batch_max * settings.lanes_per_shard
        self._front_max = min(FRONT_ROUNDS * a_round, settings.queue_max)
        self._crowd = Crowd()
        self.pressure = Pressure()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        self._in_flight = 0
        self._lanes = [
            asyncio.create_task(self._lane(), name=f"meter-shard-{keys.shard}-lane-{number}")
            for number in range(settings.lanes_per_shard)
        ]

    def submit(self, operation: Operation) -> asyncio.Future[bytes]:
        """Queue an operation; the future gives its reply as the script wrote it.

        Raises Overloaded when the queue is full, TooManyForAccount when this account is the reason:
        nothing was sent then.
        """
        settings = self._settings
        can_wait = operation.op in TAKES_CREDIT or operation.op == "touch"
        if self._crowd.waiting or len(self._queue) >= self._front_max:
            room = 1 if can_wait else 2
            self._crowd.admit(
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
        self.adopt(Pending(operation, now, now + patience, future))
        return future

    def adopt(self, pending: Pending) -> None:
        """Queue what was submitted already, here or to another shard."""
        if self._crowd.waiting or len(self._queue) >= self._front_max:
            self._crowd.add(pending)
        else:
            self._queue.append(pending)
        self._drained.clear()
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                break

    @property
    def waiting(self) -> int:
        """How many operations wait."""
        return len(self._queue) + self._crowd.waiting

    async def aclose(self) -> None:
        """Finish what is queued (bounded by close_timeout_s), then stop; what is left fails."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
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
        left += [self._crowd.take() for _ in range(self._crowd.waiting)]
        return left

    async def _lane(self) -> None:
        settings = self._settings
        connection: Any = None
        epoch: str | None = None
        pause_s, call_timeout_s = settings.retry_pause_s, settings.lane_timeout_s
        try:
            while True:
                batch = self._take() or await self._wait_for_work()
                if not batch:
                    continue
                self._in_flight += len(batch)
                try:
                    async with asyncio.timeout(call_timeout_s):
                        if connection is None:
                            connection = self._pool.make_connection()
                            await connection.connect()
                        if epoch is None:
                            epoch = (await greet(connection, self.keys, self._check_count)).epoch
                        await run_batch(connection, self.keys.batch(), epoch, batch, self._waits)
                    pause_s = settings.retry_pause_s
                    continue
                except ShardFenced as error:
                    epoch = None
                    self._put_back(batch, error, uncertain=False)
                except asyncio.CancelledError:
                    trouble = StoreUnavailable("the meter was closed")
                    self._put_back(batch, trouble, uncertain=True)
                    raise
                except (RedisError, NotConfirmed, OSError, TimeoutError) as error:
                    await _drop(connection)
                    connection, epoch = None, None
                    if is_final(error):
                        _fail(batch, StoreError(str(error)))
                        continue
                    trouble = StoreUnavailable(f"{type(error).__name__} {error}".rstrip())
                    self._put_back(batch, trouble, uncertain=not isinstance(error, ResponseError))
                except Exception as error:
                    # A defect must not strand callers: they learn of it, and the lane goes on.
                    await _drop(connection)
                    connection, epoch = None, None
                    _fail(batch, StoreError(f"{type(error).__name__}: {error}"))
                    continue
                finally:
                    self._in_flight -= len(batch)
                    self._note_drained()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, settings.retry_pause_max_s)
        finally:
            await _drop(connection)

    def _note_drained(self) -> None:
        if not self._queue and not self._crowd.waiting and not self._in_flight:
            self._drained.set()

    async def _wait_for_work(self) -> list[Pending]:
        self._note_drained()
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle
        return self._take()

    def _take(self) -> list[Pending]:
        """This lane's share of what waits, less what is past its deadline or pointless."""
        queue, crowd = self._queue, self._crowd
        waiting = len(queue) + crowd.waiting + self._in_flight
        share = -(-waiting // self._settings.lanes_per_shard)
        batch_max = min(self._settings.batch_max, max(share, BATCH_SPLIT_MIN))
        batch: list[Pending] = []
        now = self._loop.time()
        while len(batch) < batch_max:
            if not queue:
                if not crowd.waiting:
                    break
                queue.extend(crowd.take() for _ in range(min(crowd.waiting, batch_max)))
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


def _fail(batch: list[Pending], error: StoreError) -> None:
    for pending in batch:
        pending.fail(error)


async def _drop(connection: Any) -> None:
    if connection is not None:
        with suppress(Exception):  # It is given up either way.
            await connection.disconnect(nowait=True)
