"""An operation that waits for its reply, and what its caller is told when none comes in time."""

from __future__ import annotations

import asyncio

from taximeter.meter.errors import MeterError, OutcomeUnknown, StoreError, StoreUnavailable
from taximeter.meter.operations import Operation


class Pending:
    """One operation in a shard's queue or in flight.

    `sent` says that the call under way carries it; `uncertain` that an earlier call did and its
    reply was lost, so that it took effect once or not at all.
    """

    __slots__ = ("deadline", "future", "operation", "queued_at", "sent", "trouble", "uncertain")

    def __init__(
        self,
        operation: Operation,
        queued_at: float,
        deadline: float,
        future: asyncio.Future[bytes],
    ) -> None:
        self.operation = operation
        self.queued_at = queued_at
        self.deadline = deadline
        self.future = future
        self.sent = False
        self.uncertain = False
        self.trouble: StoreError | None = None

    @property
    def pointless(self) -> bool:
        """Nobody waits any more, and nothing is lost without it, unlike a charge or an end."""
        unwanted = self.future.cancelled() and self.operation.op in ("reserve", "touch")
        return unwanted and not self.sent

    def succeed(self, reply: bytes) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: MeterError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def interrupt(self, trouble: StoreError, *, uncertain: bool) -> None:
        """A call that carried it failed; `uncertain` when it may have taken effect nevertheless."""
        self.uncertain = self.uncertain or (uncertain and self.sent)
        self.sent = False
        self.trouble = trouble

    def give_up(self) -> None:
        """Its deadline has passed: say what is known."""
        if self.uncertain:
            advice = "no reply in time; repeat the request id to learn what happened"
            self.fail(OutcomeUnknown(f"{advice} ({self.trouble})"))
        else:
            self.fail(self.trouble or StoreUnavailable("Redis could not be reached in time"))
