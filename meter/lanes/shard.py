"""Queues the operations of one shard, bounded, and gives them to whoever serves it, by turns where
many wait.

What callers ask for while a call is in flight becomes the next call, so batches grow with load and
a lone caller waits for nobody. What could not be done goes back to the front of the queue under the
same ids, and a shard that was refused is left alone for a moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, get_args

from redis.exceptions import ResponseError

from taximeter.meter.lanes.confirm import Confirmer
from taximeter.meter.lanes.fair_queue import FairQueue
from taximeter.meter.lanes.pending import Group, Pending, PendingOfGroup
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.places.places import Places
from taximeter.meter.places.redirects import redirect_of
from taximeter.meter.server.acknowledged import Acknowledged, Told
from taximeter.meter.server.handshake import Greeting, Life, ShardIdentity
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import ShardFenced, StoreError, StoreUnavailable
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import OPEN_HOLDS_MAX
from taximeter.meter.wire.operations import TAKES_CREDIT, Op, Operation
from taximeter.meter.wire.waits import Wait

# Calls of every lane that are filled first come first served: turns cost more than an append.
FRONT_ROUNDS = 2
# How long a shard that nobody is let into is left alone at most: it may be opened any moment.
CLOSED_PAUSE_MAX_S = 0.1
# What a caller can do without: it is tried less long, and has less room in a full queue.
_CAN_WAIT = TAKES_CREDIT | {"touch"}
# How often in a row a shard is sent on to another server at once, before it waits a moment.
HOPS_MAX = 5


class Server(Protocol):
    """Whoever comes for what waits."""

    def add(self, shard: ShardClient) -> None:
        """It has operations that wait."""

    def remove(self, shard: ShardClient) -> None:
        """Somebody else will come for them."""


class ShardClient:
    """Queue of one shard. `find` says who serves it: the server that has it, or the one that an
    error reply sends it to this time; raises ResponseError while nobody does.
    """

    def __init__(
        self,
        places: Places,
        find: Callable[[ShardKeys, BaseException | None], Server],
        keys: ShardKeys,
        check_count: Callable[[str], None],
        settings: MeterSettings,
        tally: Tally,
    ) -> None:
        self.keys = keys
        self.names = keys.batch()
        self._places = places
        self._find = find
        self._settings = settings
        self._waits = settings.waits
        # Kept, because asking for the running loop costs a system call on some Pythons.
        self._loop = asyncio.get_running_loop()
        # What the next calls take, as it came; what is beyond them waits in the fair queue, for its
        # turn. While nobody floods, nothing is ever there.
        self._queue: deque[Pending] = deque()
        a_round = settings.batch_max * settings.lanes_per_server
        self._front_max = min(FRONT_ROUNDS * a_round, settings.queue_max)
        self._beyond = FairQueue()
        self._patience_s = {
            op: settings.take_timeout_s if op in _CAN_WAIT else settings.resolve_timeout_s
            for op in get_args(Op)
        }
        self.pressure = Pressure()
        self.tally = tally
        self.acknowledged = Acknowledged(keys)
        self.greeting = Greeting(keys, check_count, self.acknowledged)
        self.open_holds_max = OPEN_HOLDS_MAX
        self._life: Life | None = None
        self._confirmers: set[Confirmer] = set()
        """Who may keep answers of this shard back; `_kept` of them are."""
        self._kept = 0
        self._drained: asyncio.Event | None = None
        """Set when nothing is queued or in flight; there when somebody waits for that."""
        self._landed = asyncio.Event()
        self._in_flight = 0
        self.home: Server | None = None
        """Who serves it, as was known last; None while nobody does, or none was needed."""
        self._called: Server | None = None
        """Who will come for what waits."""
        self._sent_on: BaseException | None = None
        self._hops = 0
        self._pause_s = settings.retry_pause_s
        self._resting: asyncio.TimerHandle | None = None
        self._heir: Callable[[Pending], None] | None = None

    def submit(self, operation: Operation, *, in_doubt: bool = False) -> asyncio.Future[bytes]:
        """Queue an operation; the future gives its reply as the script wrote it. `in_doubt` when it
        was sent before and may have been done.

        Raises Overloaded when the queue is full, TooManyForAccount when this account is the reason:
        nothing was sent then.
        """
        loop = self._loop
        future: asyncio.Future[bytes] = loop.create_future()
        now = loop.time()
        until = now + self._patience_s[operation.op]
        self._enter(Pending(operation, now, until, future, in_doubt, self._life))
        return future

    def submit_of_group(self, operation: Operation, group: Group, place: int, now: float) -> None:
        """Queue an operation of a group, which is told its reply. `now` is the time of the loop.
        Raises as `submit`.
        """
        until = now + self._patience_s[operation.op]
        self._enter(PendingOfGroup(operation, now, until, group, place, self._life))

    def _enter(self, pending: Pending) -> None:
        queue = self._queue
        if self._beyond.waiting or len(queue) >= self._front_max:
            self._admit(pending.operation)
            self._beyond.add(pending)
        else:
            queue.append(pending)
        if self._called is None and self._resting is None:
            self._call()

    def _admit(self, operation: Operation) -> None:
        settings = self._settings
        room = 1 if operation.op in _CAN_WAIT else 2
        self._beyond.admit(
            operation.account,
            len(self._queue),
            room * settings.queue_max,
            room * settings.account_queue_max,
            self.pressure.refused,
        )

    def adopt(self, pending: Pending) -> None:
        """Queue what was submitted already, here or to another shard."""
        if self._beyond.waiting or len(self._queue) >= self._front_max:
            self._beyond.add(pending)
        else:
            self._queue.append(pending)
        if self._called is None and self._resting is None:
            self._call()

    @property
    def waiting(self) -> int:
        """How many operations wait."""
        return len(self._queue) + self._beyond.waiting

    def find_home(self) -> None:
        """The map has changed: what waits goes to whoever serves the shard now."""
        if self.home is not None:
            try:
                home = self._find(self.keys, None)
            except ResponseError:
                home = None
            if home is self.home:
                return
            self.home = home
        self._stop_resting()
        self._take_back_call()
        if self.waiting:
            self._call()

    async def drain(self, deadline: float) -> None:
        """Return when nothing is queued or in flight, or at the deadline, a time of the loop."""
        self._drained = asyncio.Event()
        self._note_drained()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._drained.wait()

    async def retire(self, heir: Callable[[Pending], None]) -> None:
        """Stop: what was not answered goes to `heir`, now or when its call has failed."""
        self._heir = heir
        self._stop_resting()
        self._take_back_call()
        for pending in [*self._queue, *(self._beyond.take() for _ in range(self._beyond.waiting))]:
            heir(pending)
        self._queue.clear()
        self._note_drained()
        while self._confirmers or self._in_flight:
            confirmers, self._confirmers = self._confirmers, set()
            for confirmer in confirmers:
                for pending in confirmer.give_back(self):
                    heir(pending)
            await self._landed.wait()

    # From here on: what its server calls.

    def take(self, most: int, now: float, batch: list[Pending]) -> int:
        """Move up to so many of those that wait into `batch`, less what is past its deadline or
        pointless; returns how many, which have their `end` later.
        """
        queue, beyond = self._queue, self._beyond
        found = len(batch)
        most += found
        while len(batch) < most:
            if not queue:
                if not beyond.waiting:
                    break
                queue.extend(beyond.take() for _ in range(min(beyond.waiting, most)))
            pending = queue.popleft()
            if pending.future.cancelled() and pending.pointless:
                continue
            if pending.deadline < now:
                pending.give_up()
                continue
            batch.append(pending)
        taken = len(batch) - found
        if taken:
            self._in_flight += taken
            self.pressure.note_waits(now - batch[found].queued_at, taken)
        return taken

    def left_out(self) -> None:
        """Nobody comes for what waits until it is asked for again."""
        self._called = None
        if not self._in_flight:
            self._note_drained()

    def end(self, taken: int) -> None:
        """So many that were taken were answered or put back."""
        self._in_flight -= taken
        if self._called is None:
            if self.waiting:
                if self._resting is None:
                    self._call()
            elif not self._in_flight:
                self._note_drained()

    def greeted(self, identity: ShardIdentity) -> Life:
        """Its server admits us."""
        self.open_holds_max, self._life = identity.open_holds_max, identity.life
        return identity.life

    def answer(
        self,
        answered: list[Pending],
        replies: list[bytes],
        writes: int,
        before: Told,
        life: Life,
        confirmer: Callable[[Wait], Confirmer],
    ) -> None:
        """Answer everybody in a call, or hand him to who confirms it on its server. `before` is
        what was known when it was sent.
        """
        self._hops = 0
        self._pause_s = self._settings.retry_pause_s
        if not answered:
            return
        waits = self._waits
        if waits is None:
            for pending, reply in zip(answered, replies, strict=True):
                if pending.uncertain:
                    pending.answer(reply)
                else:
                    pending.tell(reply)
            self.tally.note(answered, replies, self._loop.time())
        else:
            now = self._loop.time()
            for pending, reply in zip(answered, replies, strict=True):
                wait = waits.of(pending.operation.op)
                if wait == "none" or reply.startswith(b"-"):
                    pending.answer(reply)
                    self.tally.note([pending], [reply], now)
                elif pending.is_awaited:
                    keeper = confirmer(wait)
                    self._confirmers.add(keeper)
                    self._kept += 1
                    keeper.add(self, pending, reply, life, writes)
        self.acknowledged.note(before, life.epoch, writes)

    def put_back(self, batch: list[Pending], trouble: StoreError, *, uncertain: bool) -> None:
        """To the front of the queue again, unless answered, pointless or past its deadline."""
        now = self._loop.time()
        for pending in reversed(batch):
            pending.interrupt(trouble, uncertain=uncertain)
            if pending.pointless or pending.is_told:
                continue
            if pending.deadline <= now:
                pending.give_up()
            elif self._heir is not None:
                self._heir(pending)
            else:
                self._queue.appendleft(pending)

    def refused(self, error: BaseException) -> None:
        """A server has refused a call of this shard, which has its `end` yet: go where it says, or
        wait a moment.
        """
        self._take_back_call()
        redirect = redirect_of(error)
        if redirect is not None and self._hops < HOPS_MAX:
            self._hops += 1
            if redirect.kind == "ASK":
                self._sent_on = error
        elif self._resting is None and self._heir is None:
            pause_s = self._pause_s
            if isinstance(error, ShardFenced):
                pause_s = min(pause_s, CLOSED_PAUSE_MAX_S)
            self._resting = self._loop.call_later(pause_s, self._rested)
            self._pause_s = min(2 * self._pause_s, self._settings.retry_pause_max_s)

    def _take_back_call(self) -> None:
        if self._called is not None:
            self._called.remove(self)
            self._called = None

    def _stop_resting(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _rested(self) -> None:
        self._resting = None
        if self._called is None and self.waiting:
            self._call()

    def _call(self) -> None:
        """Have somebody come for what waits."""
        server = self.home
        if server is None or self._sent_on is not None:
            sent_on, self._sent_on = self._sent_on, None
            try:
                server = self._find(self.keys, sent_on)
            except ResponseError as error:
                self._stand_still(error)
                return
            if sent_on is None:
                self.home = server
        self._called = server
        server.add(self)

    def _stand_still(self, error: ResponseError) -> None:
        """Nobody has the shard: those whose turn it is learn why."""
        self._places.heed(error)
        batch: list[Pending] = []
        taken = self.take(self._settings.batch_max, self._loop.time(), batch)
        trouble = StoreUnavailable(f"{type(error).__name__} {error}".rstrip())
        self.put_back(batch, trouble, uncertain=False)
        self.refused(error)
        self._in_flight -= taken
        self._note_drained()

    def ask_again(self, batch: list[Pending], trouble: StoreError) -> None:
        """A server that is gone said that these were done: they are asked for under their ids."""
        self.put_back(batch, trouble, uncertain=True)
        if self._called is None and self._resting is None and self.waiting:
            self._call()

    def let_go(self, answers: int) -> None:
        """So many are not kept back any more."""
        self._kept -= answers
        if not self._kept:
            self._confirmers.clear()
            self._note_drained()

    def _note_drained(self) -> None:
        if self._in_flight:
            return
        if self._heir is not None:
            self._landed.set()
        if self._drained is not None and not self.waiting and not self._kept:
            self._drained.set()


def fail(batch: list[Pending], error: StoreError, *, done: bool) -> None:
    """Asking again would not help; `done` when the call may have had its effect all the same."""
    for pending in batch:
        pending.interrupt(error, uncertain=done)
        pending.refuse(error)
