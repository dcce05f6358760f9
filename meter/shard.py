"""One shard as the client sees it: a bounded queue, and lanes that send what waits there as one script call each.

What callers ask for while a call is in flight becomes the next call, so batches grow with load and a lone caller waits for
nobody. A lane owns one connection and has one call in flight, which is the bound on calls in flight; a lost reply costs
that lane its connection, and its operations go back to the front of the queue under the same ids.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from taximeter.meter.codes import FENCED, STALE_EPOCH
from taximeter.meter.errors import (
    MeterError,
    OutcomeUnknown,
    Overloaded,
    ShardFenced,
    StoreError,
    StoreOutOfMemory,
    StoreUnavailable,
)
from taximeter.meter.faults import is_final, is_out_of_memory
from taximeter.meter.handshake import ShardIdentity, greet
from taximeter.meter.keys import ShardKeys
from taximeter.meter.operations import TAKES_CREDIT, Operation, Reply, parse_reply
from taximeter.meter.scripts import Script, load_script
from taximeter.meter.settings import MeterSettings


class Pending:
    """An operation that waits for its reply, and until when it is worth trying."""

    __slots__ = ("deadline", "future", "operation", "sent", "trouble", "uncertain")

    def __init__(self, operation: Operation, deadline: float, future: asyncio.Future[Reply]) -> None:
        self.operation = operation
        self.deadline = deadline
        self.future = future
        self.sent = False
        self.uncertain = False
        self.trouble: StoreError | None = None

    @property
    def pointless(self) -> bool:
        """Nobody waits for it any more and nothing is lost without it. A commit, charge or release goes on regardless."""
        return self.future.cancelled() and not self.sent and self.operation.op in ("reserve", "touch")

    def fail(self, error: MeterError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def give_up(self) -> None:
        """Past its deadline: say what is known. A call that was sent may have taken effect."""
        trouble = self.trouble
        if self.uncertain:
            self.fail(OutcomeUnknown(f"no reply in time; repeat the request id to learn what happened ({trouble})"))
        else:
            self.fail(trouble or StoreUnavailable("Redis could not be reached in time; nothing was sent"))


class ShardClient:
    """Queue and lanes of one shard."""

    def __init__(self, pool: ConnectionPool, keys: ShardKeys, shards: int, settings: MeterSettings) -> None:
        self.keys = keys
        self._shards = shards
        self._in_flight = 0
        self._keys_part: list[Any] = [7, *keys.batch()]
        self._pool = pool
        self._settings = settings
        self._queue: deque[Pending] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes = [
            asyncio.create_task(self._lane(), name=f"meter-shard-{keys.shard}-lane-{number}")
            for number in range(settings.lanes_per_shard)
        ]

    def submit(self, operation: Operation) -> asyncio.Future[Reply]:
        """Queue an operation. Raises Overloaded when the queue is full: nothing was sent then."""
        settings, takes = self._settings, operation.op in TAKES_CREDIT or operation.op == "touch"
        if len(self._queue) >= (settings.queue_max if takes else 2 * settings.queue_max):
            raise Overloaded(f"{len(self._queue)} operations wait for shard {self.keys.shard} already")
        loop = asyncio.get_running_loop()
        patience = settings.take_timeout_s if takes else settings.resolve_timeout_s
        future: asyncio.Future[Reply] = loop.create_future()
        self._queue.append(Pending(operation, loop.time() + patience, future))
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                break
        return future

    async def aclose(self) -> None:
        """Wait for the queue to empty (bounded), then stop the lanes. What is left fails as StoreUnavailable."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.close_timeout_s
        while (self._queue or self._in_flight) and loop.time() < end:
            await asyncio.sleep(0.005)
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        while self._queue:
            self._queue.popleft().give_up()

    async def _lane(self) -> None:
        connection: Any = None
        identity: ShardIdentity | None = None
        pause = self._settings.retry_pause_s
        try:
            while True:
                batch = self._take() or await self._wait_for_work()
                if not batch:
                    continue
                self._in_flight += 1
                try:
                    async with asyncio.timeout(self._settings.call_timeout_s):
                        if connection is None:
                            connection = self._pool.make_connection()
                            await connection.connect()
                        if identity is None:
                            identity = await self._greet(connection)
                        await self._call(connection, identity, batch)
                    pause = self._settings.retry_pause_s
                except ShardFenced as error:
                    identity = None
                    self._put_back(batch, error, uncertain=False)
                    pause = await self._rest(pause)
                except asyncio.CancelledError:
                    self._put_back(batch, StoreUnavailable("the meter was closed"), uncertain=True)
                    raise
                except (RedisError, OSError, TimeoutError) as error:
                    connection, identity = await _drop(connection), None
                    if is_final(error):
                        _fail(batch, StoreError(str(error)))
                        continue
                    trouble = StoreUnavailable(f"Redis: {type(error).__name__} {error}".rstrip())
                    self._put_back(batch, trouble, uncertain=not isinstance(error, ResponseError))
                    pause = await self._rest(pause)
                except Exception as error:
                    # A defect here must not strand callers: they learn of it, and the lane goes on.
                    connection, identity = await _drop(connection), None
                    _fail(batch, StoreError(f"{type(error).__name__}: {error}"))
                finally:
                    self._in_flight -= 1
        finally:
            await _drop(connection)

    async def _greet(self, connection: Any) -> ShardIdentity:
        identity = await greet(connection, self.keys)
        if identity.shards != self._shards:
            raise ShardFenced(f"there are {identity.shards} shards now, not {self._shards}; connect again")
        return identity

    async def _rest(self, pause_s: float) -> float:
        await asyncio.sleep(pause_s)
        return min(2 * pause_s, self._settings.retry_pause_max_s)

    async def _wait_for_work(self) -> list[Pending]:
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        await idle
        return self._take()

    def _take(self) -> list[Pending]:
        """Up to batch_max waiting operations, less what is past its deadline or pointless."""
        queue, batch = self._queue, []
        now = asyncio.get_running_loop().time()
        while queue and len(batch) < self._settings.batch_max:
            pending = queue.popleft()
            if pending.pointless:
                continue
            if pending.deadline < now:
                pending.give_up()
                continue
            batch.append(pending)
        return batch

    def _put_back(self, batch: list[Pending], trouble: StoreError, *, uncertain: bool) -> None:
        """Back to the front of the queue. `uncertain`: what was sent may have taken effect."""
        now = asyncio.get_running_loop().time()
        for pending in reversed(batch):
            pending.uncertain = pending.uncertain or (uncertain and pending.sent)
            pending.sent = False
            pending.trouble = trouble
            if pending.pointless or (pending.future.done() and not pending.future.cancelled()):
                continue
            if pending.deadline <= now:
                pending.give_up()
            else:
                self._queue.appendleft(pending)

    async def _call(self, connection: Any, identity: ShardIdentity, batch: list[Pending]) -> None:
        replies = await self._run(connection, load_script("operate"), identity, batch)
        if replies is None:
            await self._resolve_only(connection, identity, batch)
            return
        _deliver(batch, replies)

    async def _resolve_only(self, connection: Any, identity: ShardIdentity, batch: list[Pending]) -> None:
        """Memory is out: what takes credit is refused, what resolves holds goes through."""
        resolving = []
        for pending in batch:
            if pending.operation.op in TAKES_CREDIT:
                pending.fail(StoreOutOfMemory("Redis is out of memory; holds can still be committed and released"))
            else:
                resolving.append(pending)
        if resolving:
            replies = await self._run(connection, load_script("resolve"), identity, resolving)
            if replies is None:
                raise StoreUnavailable("Redis is out of memory even for what frees memory")
            _deliver(resolving, replies)

    async def _run(
        self, connection: Any, script: Script, identity: ShardIdentity, batch: list[Pending]
    ) -> list[Any] | None:
        """One script call. None when memory is out; raises ShardFenced when the shard is closed or at another epoch."""
        arguments: list[Any] = [*self._keys_part, identity.epoch]
        for pending in batch:
            pending.sent = True
            arguments += pending.operation.arguments()
        try:
            try:
                await connection.send_command("EVALSHA", script.sha, *arguments, check_health=False)
                reply = await connection.read_response(disable_decoding=True)
            except NoScriptError:
                await connection.send_command("EVAL", script.text, *arguments, check_health=False)
                reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            message = str(error)
            if message.startswith((FENCED, STALE_EPOCH)):
                raise ShardFenced(message) from error
            if is_out_of_memory(error):
                return None
            raise
        if not isinstance(reply, list) or len(reply) != len(batch):
            raise StoreError(f"script {script.name} answered {type(reply).__name__} for {len(batch)} operations")
        return reply


def _fail(batch: list[Pending], error: MeterError) -> None:
    for pending in batch:
        pending.fail(error)


def _deliver(batch: list[Pending], replies: list[Any]) -> None:
    for pending, raw in zip(batch, replies, strict=True):
        if not pending.future.done():
            pending.future.set_result(parse_reply(raw))


async def _drop(connection: Any) -> None:
    if connection is not None:
        try:
            await connection.disconnect(nowait=True)
        except Exception:  # noqa: BLE001 S110 - the connection is given up either way
            pass
