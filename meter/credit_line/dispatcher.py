"""Sends an operation where some organisations have a credit line: to Redis while that answers,
to the desk while it does not, and from the desk to Redis when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from taximeter.meter.credit_line.admitted import Entry
from taximeter.meter.credit_line.desk import CreditDesk
from taximeter.meter.lanes.dispatch import Dispatcher
from taximeter.meter.wire.errors import (
    AdmissionPaused,
    MeterError,
    NotConfirmed,
    OutcomeUnknown,
    RequestConflict,
    RequestReplayed,
    StoreError,
    StoreOutOfMemory,
    StoreUnavailable,
)
from taximeter.meter.wire.operations import Operation, ok_receipt
from taximeter.meter.wire.receipt import Receipt

log: Final = logging.getLogger("taximeter.meter")

# For so long after a failure nobody waits for Redis again before going to the desk.
_AWAY_S: Final = 1.0
_DRAIN_PAUSE_S: Final = 0.25
_AT_ONCE: Final = 100


class FailOpenDispatcher:
    """A Dispatcher that admits on credit when the inner one cannot reach Redis."""

    def __init__(self, inner: Dispatcher, desk: CreditDesk) -> None:
        self._inner = inner
        self._desk = desk
        self._trouble: StoreError | None = None
        self._away_until = 0.0
        self._draining = asyncio.create_task(self._drain(), name="meter-credit-line")

    async def reserve(self, operation: Operation) -> tuple[int, int]:
        """As Dispatcher.reserve; (0, 0) when it was admitted on credit."""
        trouble = self._known_trouble(operation)
        if trouble is None:
            try:
                return await self._inner.reserve(operation)
            except StoreError as error:
                trouble = self._admissible(operation, error)
        await self._admit(operation, trouble)
        return 0, 0

    async def finish(self, operation: Operation) -> Receipt:
        """As Dispatcher.finish."""
        entry = self._desk.entry(operation.key)
        if entry is not None and operation.op != "charge":
            ended = await asyncio.shield(self._desk.finish(entry, operation))
            if ended is not None:
                return ended
        if operation.op != "charge":
            return await self._inner.finish(operation)
        trouble = self._known_trouble(operation)
        if trouble is None:
            try:
                return await self._inner.finish(operation)
            except RequestConflict as error:
                if not self._was_on_credit(operation, error.outcome):
                    raise
                return error.outcome._replace(replayed=True)
            except StoreError as error:
                trouble = self._admissible(operation, error)
        return await self._admit(operation, trouble)

    async def ask(self, operation: Operation) -> Receipt:
        """As Dispatcher.ask."""
        entry = self._desk.entry(operation.key)
        if entry is not None and operation.op == "touch":
            touched = await asyncio.shield(self._desk.touch(entry, operation))
            if touched is not None:
                return touched
        return await self._inner.ask(operation)

    async def run(self, wanted: Sequence[Operation | MeterError]) -> list[Receipt | MeterError]:
        """As Dispatcher.run, but each goes its own way: to Redis or to the desk."""
        return await asyncio.gather(*map(self._told_of, wanted))

    async def _told_of(self, operation: Operation | MeterError) -> Receipt | MeterError:
        if isinstance(operation, MeterError):
            return operation
        try:
            if operation.op == "reserve":
                return ok_receipt(operation, *await self.reserve(operation))
            if operation.op == "touch":
                return await self.ask(operation)
            return await self.finish(operation)
        except MeterError as error:
            return error

    async def _admit(self, operation: Operation, trouble: StoreError) -> Receipt:
        """On credit. What Redis may have done is not refused because the desk would not do it."""
        try:
            return await asyncio.shield(
                self._desk.admit(operation, trouble, self._inner.open_holds_max(operation.account))
            )
        except MeterError as error:
            if isinstance(trouble, OutcomeUnknown) and not isinstance(error, RequestReplayed):
                raise trouble from error
            raise

    async def aclose(self, timeout_s: float) -> None:
        """Charge what can be charged within the time; the rest is in the journal for the next
        process.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._draining.cancel()
        await asyncio.gather(self._draining, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._charge_all()
        await self._inner.aclose(deadline - asyncio.get_running_loop().time())
        await self._desk.aclose()

    def _known_trouble(self, operation: Operation) -> StoreError | None:
        """Why Redis was away a moment ago, for an organisation with a line."""
        if asyncio.get_running_loop().time() >= self._away_until:
            return None
        return self._trouble if self._desk.has_line(operation.account.partition("/")[0]) else None

    def _was_on_credit(self, charge: Operation, outcome: Receipt) -> bool:
        """Whether the id stands for this charge, which came to Redis as a commit without a hold."""
        return (
            self._desk.has_line(charge.account.partition("/")[0])
            and (outcome.state, outcome.reserved) == ("committed", 0)
            and outcome.charged == charge.amount
        )

    def _admissible(self, operation: Operation, error: StoreError) -> StoreError:
        """Return the error when it means that Redis is away and the organisation has a line; raise
        it otherwise. A Redis that says no (full, drained), or has done it, is not away.
        """
        if isinstance(error, (StoreOutOfMemory, AdmissionPaused, NotConfirmed)):
            raise error
        if not self._desk.has_line(operation.account.partition("/")[0]):
            raise error
        # What others are told of it later: nothing of theirs was sent.
        self._trouble = StoreUnavailable(f"Redis was away a moment ago: {error}")
        self._away_until = asyncio.get_running_loop().time() + _AWAY_S
        return error

    async def _drain(self) -> None:
        while True:
            try:
                await self._desk.expire()
            except StoreError as error:
                log.error("taximeter: %s", error)
            await self._charge_all()
            await asyncio.sleep(_DRAIN_PAUSE_S)

    async def _charge_all(self) -> None:
        due = self._desk.due
        for start in range(0, len(due), _AT_ONCE):
            group = due[start : start + _AT_ONCE]
            done = await asyncio.gather(*(self._charge(entry) for entry in group))
            if not any(done):
                return  # Redis is still away.

    async def _charge(self, entry: Entry) -> bool:
        """Make the commit under its id: if it went through before, Redis or the ledger knows."""
        due = entry.due
        assert due is not None
        try:
            await self._inner.ask(due)
        except StoreError:
            return False
        except RequestConflict as error:
            ending = (
                self._desk.charged(entry, due)
                if _is_covered(due, error.outcome)
                else self._refuse(entry, due, error)
            )
        except MeterError as error:
            ending = self._refuse(entry, due, error)
        else:
            ending = self._desk.charged(entry, due)
        self._away_until = 0.0
        try:
            await ending
        except StoreError as error:
            log.error("taximeter: %s", error)
            return False
        return True

    async def _refuse(self, entry: Entry, due: Operation, error: MeterError) -> None:
        """Redis answered, and will answer the same next time: an account that nobody knows, or a
        request that ended another way. A person has to look.
        """
        log.error("taximeter: could not charge %s on credit: %s", due.key, error)
        await self._desk.refused(entry, due, error)


def _is_covered(due: Operation, outcome: Receipt) -> bool:
    """Whether what the id stands for is what is due: the charge that Redis made before its reply
    was lost, or an end after which nothing is owed for what was reported.
    """
    if due.op == "expire":
        return outcome.state == "released" or outcome.charged >= due.amount
    return outcome.state in ("charged", "committed") and outcome.charged == due.amount
