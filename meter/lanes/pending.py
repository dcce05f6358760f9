"""Keeps an operation that waits for its reply, and tells its caller when none comes in time; one
that came with others tells the group that they wait in.
"""

from __future__ import annotations

import asyncio
from typing import Final

from taximeter.meter.server.handshake import Life
from taximeter.meter.wire.errors import MeterError, OutcomeUnknown, StoreError, StoreUnavailable
from taximeter.meter.wire.operations import Operation

NOT_LOADED: Final = b"-2"
NOT_LOADED_IN_DOUBT: Final = b"-2 in-doubt"
"""Handed on instead of NOT_LOADED for an operation that an earlier call may have done."""


class Pending:
    """One operation in a shard's queue or in flight.

    `sent` says that the call under way carries it; `uncertain` that an earlier call did and its
    reply was lost, so that it took effect once or not at all. What is refused then is news about
    the server and not about the operation, which may have been done before, or may be done yet when
    the first copy arrives: it ends as done or as unknown, and never as refused. `life` is that of
    the server which was known when it was submitted, None when none was.
    """

    __slots__ = (
        "deadline", "future", "life", "operation", "queued_at", "sent", "trouble", "uncertain",
    )  # fmt: skip

    def __init__(
        self,
        operation: Operation,
        queued_at: float,
        deadline: float,
        future: asyncio.Future[bytes],
        uncertain: bool = False,
        life: Life | None = None,
    ) -> None:
        self.operation = operation
        self.queued_at = queued_at
        self.deadline = deadline
        self.future = future
        self.sent = False
        self.uncertain = uncertain
        self.life = life
        self.trouble: StoreError | None = None

    @property
    def pointless(self) -> bool:
        """Nobody waits any more, and nothing is lost without it, unlike a charge or an end."""
        unwanted = self.future.cancelled() and self.operation.op in ("reserve", "touch")
        return unwanted and not self.sent

    @property
    def is_told(self) -> bool:
        """Whether its caller was told what became of it."""
        return self.future.done() and not self.future.cancelled()

    @property
    def is_awaited(self) -> bool:
        """Whether its caller is there, and was not told yet."""
        return not self.future.done()

    def is_outlived(self, life: Life) -> bool:
        """Whether it must not go to a server of this life: a heartbeat from before a restart. Its
        hold may have ended since, and the restart have lost the end: the heartbeat would vouch for
        the hold, and have its expiry charged.
        """
        if self.operation.op != "touch" or self.life == life:
            return False
        if self.life is not None:
            return True
        self.life = life
        return False

    def answer(self, reply: bytes) -> None:
        """Hand on what the script said about it."""
        if self.uncertain and reply.startswith(b"-"):
            if reply != NOT_LOADED:
                self.fail(unknown(f"asked again, the answer was {reply.decode()!r}"))
                return
            reply = NOT_LOADED_IN_DOUBT
        self.tell(reply)

    def tell(self, reply: bytes) -> None:
        """Tell the caller this, unless he was told something already."""
        if not self.future.done():
            self.future.set_result(reply)

    def refuse(self, error: MeterError) -> None:
        """The call that carried it was refused as a whole, and nothing of it was done."""
        self.fail(unknown(str(error)) if self.uncertain else error)

    def fail(self, error: MeterError) -> None:
        """The same with an error."""
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
            self.fail(unknown(str(self.trouble or "it was sent before")))
        else:
            self.fail(self.trouble or StoreUnavailable("Redis could not be reached in time"))


class Group:
    """Operations that one caller waits for together. `answers` has what was told of each: its reply
    or its error, None until then; `future` ends when there is one for all.
    """

    __slots__ = ("_left", "answers", "future")

    def __init__(self, count: int, future: asyncio.Future[None]) -> None:
        self.future = future
        self.answers: list[bytes | MeterError | None] = [None] * count
        self._left = count

    def tell(self, place: int, answer: bytes | MeterError) -> None:
        """What became of the operation at this place, unless that is known."""
        answers = self.answers
        if answers[place] is None:
            answers[place] = answer
            self._left -= 1
            if not self._left and not self.future.done():
                self.future.set_result(None)


class PendingOfGroup(Pending):
    """One operation of a group, at a place of it. `future` is that of the group."""

    __slots__ = ("_group", "_place")

    def __init__(
        self,
        operation: Operation,
        queued_at: float,
        deadline: float,
        group: Group,
        place: int,
        life: Life | None,
    ) -> None:
        self.operation = operation
        self.queued_at = queued_at
        self.deadline = deadline
        self.future = group.future  # type: ignore[assignment]  # Nobody but the group sets it.
        self.sent = False
        self.uncertain = False
        self.life = life
        self.trouble = None
        self._group = group
        self._place = place

    @property
    def is_told(self) -> bool:
        return self._group.answers[self._place] is not None

    @property
    def is_awaited(self) -> bool:
        return not self.is_told and not self.future.cancelled()

    def tell(self, reply: bytes) -> None:
        self._group.tell(self._place, reply)

    def fail(self, error: MeterError) -> None:
        self._group.tell(self._place, error)


def unknown(what: str) -> OutcomeUnknown:
    """What is told of an operation that may have been done, and why it is not known."""
    advice = "no reply in time; repeat the request id to learn what happened"
    return OutcomeUnknown(f"{advice} ({what})")
