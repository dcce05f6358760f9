"""Sends operations to their shards, one or many for one caller, loads missing accounts, and
finishes the calls of cancelled callers in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from taximeter.meter.lanes.giving_back import GivingBack
from taximeter.meter.lanes.live_accounts import AccountReader
from taximeter.meter.lanes.pending import NOT_LOADED, NOT_LOADED_IN_DOUBT, Group, unknown
from taximeter.meter.lanes.shards import Shards
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.errors import (
    InsufficientCredits,
    MeterError,
    NotAllowed,
    OutcomeUnknown,
    Overloaded,
    RequestConflict,
    RequestReplayed,
    StoreError,
    TooManyHolds,
    UnknownHold,
)
from taximeter.meter.wire.keys import shard_of_account, split_account
from taximeter.meter.wire.operations import (
    OK_REPLY,
    Operation,
    Reply,
    known_receipt,
    ok_balance,
    ok_receipt,
    parse_reply,
    raise_refusal,
)
from taximeter.meter.wire.receipt import Receipt

logger = logging.getLogger("taximeter.meter")

REPORT_PAUSE_S = 1.0
# What nobody needs to hear of: the answer was no, and nothing was left open.
_REFUSALS = (InsufficientCredits, NotAllowed, RequestConflict, TooManyHolds, UnknownHold)


class Dispatcher:
    """Sends operations and keeps what cancelled callers have left behind."""

    def __init__(
        self,
        shards: Shards,
        accounts: AccountReader,
        overdraft_report: int,
    ) -> None:
        self._shards = shards
        self._clients = shards.clients
        self._accounts = accounts
        self._floor = -overdraft_report
        self.overdrafts = 0
        """Operations that have left an account further below zero than is let pass in silence."""
        self._giving_back = GivingBack(self.submit)
        self._background: set[asyncio.Task[Any]] = set()
        self._unreported = 0
        self._reported_at = float("-inf")

    def submit(self, operation: Operation, *, in_doubt: bool = False) -> asyncio.Future[bytes]:
        """Queue it at its shard; the future gives the reply. Raises Overloaded."""
        clients = self._clients
        if len(clients) == 1:
            return clients[0].submit(operation, in_doubt=in_doubt)
        shard = clients[shard_of_account(operation.account, len(clients))]
        return shard.submit(operation, in_doubt=in_doubt)

    async def reserve(self, operation: Operation) -> tuple[int, int]:
        """Take a hold; returns (available, held). Raises what it was refused with.

        When it is cancelled, or its outcome is unknown, what it may have taken is given back as
        soon as Redis answers.
        """
        try:
            raw = await self.submit(operation)
            if raw.startswith(OK_REPLY):
                return ok_balance(raw)
            return await self.reserved(operation, raw)
        except (asyncio.CancelledError, OutcomeUnknown):
            self.give_back(operation)
            raise

    async def reserved(self, operation: Operation, raw: bytes) -> tuple[int, int]:
        """(available, held) after a reserve that had this reply. Raises what it was refused with;
        when it is cancelled or unknown, what was taken is the caller's to give back.
        """
        reply = await self._loaded(operation, raw)
        if reply.code is Code.REPLAYED:
            raise RequestReplayed(known_receipt(operation, reply))
        raise_refusal(operation, reply)
        return reply.available, reply.held

    def give_back(self, operation: Operation) -> None:
        """End what a reserve may hold whose caller was told nothing, as soon as Redis answers."""
        self._giving_back.add(operation)

    async def finish(self, operation: Operation) -> Receipt:
        """Commit, release or charge. Goes on in the background when the caller is cancelled: the
        caller is gone, the money is not, and the same operation again is a replay if it went
        through.
        """
        try:
            return await self.ended(operation, await self.submit(operation))
        except asyncio.CancelledError:
            self.go_on(operation)
            raise

    def go_on(self, operation: Operation) -> None:
        """Do it in the background: whoever asked for it has left."""
        self._spawn(self.ask(operation))

    async def ask(self, operation: Operation) -> Receipt:
        """Send it and say what became of the request. Raises what it was refused with."""
        return await self.ended(operation, await self.submit(operation))

    async def ended(self, operation: Operation, raw: bytes) -> Receipt:
        """What became of a request whose operation had this reply. Raises what it was refused
        with.
        """
        if raw.startswith(OK_REPLY):
            return self.ok(operation, raw)
        reply = await self._loaded(operation, raw)
        if reply.code in (Code.OK, Code.LATE) and reply.available < self._floor:
            self._report_overdraft(operation, reply.available)
        if reply.code is Code.OK:
            return ok_receipt(operation, reply.available, reply.held)
        raise_refusal(operation, reply)
        return known_receipt(operation, reply)

    def ok(self, operation: Operation, raw: bytes) -> Receipt:
        """What became of it when the reply begins with OK_REPLY."""
        _, first, second = raw.split(b" ")
        available, held = int(first), int(second)
        if available < self._floor:
            self._report_overdraft(operation, available)
        return ok_receipt(operation, available, held)

    async def run(self, wanted: Sequence[Operation | MeterError]) -> list[Receipt | MeterError]:
        """Do all of them, for one caller and with one wait, and say what became of each, in their
        order; an error among them is handed back. Those of one account are sent in their order.

        Nothing is raised for one of them, and none stops another. When the caller is cancelled, or
        an outcome is unknown, each is treated as if it had been sent alone.
        """
        if not wanted:
            return []
        group = self._submit_all(wanted)
        try:
            await group.future
            told: list[Any] = []
            unusual: list[int] = []
            for operation, answer in zip(wanted, group.answers, strict=True):
                if type(answer) is bytes and answer.startswith(OK_REPLY):
                    told.append(self.ok(operation, answer))  # type: ignore[arg-type]  # It was one.
                else:
                    unusual.append(len(told))
                    told.append(answer)
            if unusual:
                told_of = (self._told_of(wanted[place], group.answers[place]) for place in unusual)
                for place, one in zip(unusual, await asyncio.gather(*told_of), strict=True):
                    told[place] = one
        except BaseException:  # Cancelled, or a defect: nobody is told anything.
            self._left_behind(wanted, group)
            raise
        return told

    def _submit_all(self, wanted: Sequence[Operation | MeterError]) -> Group:
        loop = asyncio.get_running_loop()
        group = Group(len(wanted), loop.create_future())
        clients, now = self._clients, loop.time()
        for place, operation in enumerate(wanted):
            if isinstance(operation, MeterError):
                group.tell(place, operation)
                continue
            shard = clients[shard_of_account(operation.account, len(clients))]
            try:
                shard.submit_of_group(operation, group, place, now)
            except Overloaded as error:
                group.tell(place, error)
        return group

    async def _told_of(
        self, operation: Operation | MeterError, answer: bytes | MeterError | None
    ) -> Receipt | MeterError:
        """What became of one of many, where that is not simply that it was done."""
        if isinstance(operation, MeterError):
            return operation
        is_reserve = operation.op == "reserve"
        try:
            if isinstance(answer, MeterError):
                raise answer
            assert answer is not None, "the group has ended"
            if is_reserve:
                return ok_receipt(operation, *await self.reserved(operation, answer))
            return await self.ended(operation, answer)
        except MeterError as error:
            told = error
        except Exception as error:
            # A defect must not hide what became of the others.
            told = unknown(f"{type(error).__name__}: {error}")
        if is_reserve and isinstance(told, OutcomeUnknown):
            self.give_back(operation)
        return told

    def _left_behind(self, wanted: Sequence[Operation | MeterError], group: Group) -> None:
        """Their caller was cancelled: reserves are given back, the rest goes on."""
        for operation, answer in zip(wanted, group.answers, strict=True):
            if isinstance(operation, MeterError):
                continue
            if isinstance(answer, bytes):
                is_open, is_done = answer.startswith(NOT_LOADED), answer.startswith(OK_REPLY)
            else:
                is_open, is_done = answer is None or isinstance(answer, OutcomeUnknown), False
            if operation.op == "reserve":
                if is_open or is_done:
                    self.give_back(operation)
            elif operation.op != "touch" and is_open:
                self.go_on(operation)

    def open_holds_max(self, account: str) -> int:
        """How many holds it may have open, as its shard said last."""
        return self._clients[shard_of_account(account, len(self._clients))].open_holds_max

    def _report_overdraft(self, operation: Operation, available: int) -> None:
        """Every one of them: each is credit that somebody was given without having it."""
        self.overdrafts += 1
        logger.warning(
            "taximeter: %s of request %s, %d millicredits, leaves account %s at %d",
            *(operation.op, operation.request_id, operation.amount),
            *(operation.account, available),
        )

    async def aclose(self, timeout_s: float) -> None:
        """Finish what goes on in the background and what is queued, all within the time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        if self._background:
            await asyncio.wait(self._background, timeout=max(0.0, timeout_s))
        await self._giving_back.aclose(deadline)
        await self._shards.aclose(deadline)

    async def _loaded(self, operation: Operation, raw: bytes) -> Reply:
        """The reply, parsed; if it was NOT_LOADED, the reply after loading the account. Whatever
        refuses that says nothing about an operation that may have been done before.
        """
        for _ in range(3):
            reply = parse_reply(raw)
            if reply.code is not Code.NOT_LOADED:
                return reply
            in_doubt = raw == NOT_LOADED_IN_DOUBT
            try:
                await self._accounts.load(*split_account(operation.account))
                raw = await self.submit(operation, in_doubt=in_doubt)
            except OutcomeUnknown:
                raise
            except MeterError as error:
                if in_doubt:
                    raise unknown(str(error)) from error
                raise
        trouble = StoreError(
            f"account {operation.account} was loaded but is not there: does something remove it?"
        )
        raise unknown(str(trouble)) if raw == NOT_LOADED_IN_DOUBT else trouble

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background. An error there is what the hold's deadline exists for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        """Report a failure, at most once in REPORT_PAUSE_S: thousands may be cancelled at once."""
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, _REFUSALS):
            return
        self._unreported += 1
        loop = asyncio.get_running_loop()
        if loop.time() - self._reported_at >= REPORT_PAUSE_S:
            what = f"taximeter: operations of cancelled callers failed: {self._unreported}"
            self._unreported, self._reported_at = 0, loop.time()
            loop.call_exception_handler({"message": what, "exception": error, "task": task})
