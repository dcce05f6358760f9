"""Keeps the open hold of one request, from the reserve to its one end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taximeter.api.llm.progress import ProgressReports
from taximeter.api.llm.reported_usage import Bounds, ReportedUsage, read_usage
from taximeter.api.llm.unsent_charges import LATER, Due, PendingCharges
from taximeter.api.openai.output import NO_OUTPUT, CountedOutput, EventOutput, Output
from taximeter.api.openai.request import LlmRequest
from taximeter.api.upstreams.router import Target
from taximeter.api.web.background import TaskTracker
from taximeter.meter import (
    Hold,
    MeterError,
    Receipt,
    RequestConflict,
    UnknownHold,
    Usage,
    WrongCell,
)
from taximeter.meter.pricing import Price
from taximeter.meter.pricing.usage_objects import counts_of
from taximeter.meter.wire.credits import text_of_credits

if TYPE_CHECKING:
    from taximeter.api.llm.call_span import CallSpan

logger = logging.getLogger("taximeter.api")

HEARTBEATS_PER_TTL = 3


@dataclass(frozen=True, slots=True)
class Keepers:
    """Who looks after charges that are not made at once: tasks that outlive a request, the reports
    of what was delivered, and the charges that wait for the meter.
    """

    tracker: TaskTracker
    progress: ProgressReports
    pending: PendingCharges


class OpenCharge:
    """Keeps a hold alive, and ends it once: with what the upstream reported, what was delivered, or
    nothing.

    The amount is decided once. If the meter cannot take it, it is on disk before anybody is told,
    and made later under the same id. What is delivered is reported as it grows: if this process
    dies, the hold expires and the last report is charged.
    """

    def __init__(
        self,
        hold: Hold,
        chat: LlmRequest,
        prices: Mapping[Target, Price],
        bounds: Mapping[Target, Bounds],
        keepers: Keepers,
        *,
        prompt_tokens: int,
        ttl_s: float,
        hold_ms: float,
        key_id: str | None = None,
    ) -> None:
        self._hold = hold
        self._chat = chat
        self._prices = prices
        self._bounds = bounds
        self._keepers = keepers
        self._ttl_s = ttl_s
        self._key_id = key_id
        self._prompt_tokens = prompt_tokens  # Guessed, for when the upstream does not tell.
        self._decided: tuple[int, Usage] | None = None
        self._ended = False
        self._is_noted = False
        self.target = next(iter(prices))  # Who answers; until that is known, who is asked first.
        self.hold_ms = hold_ms
        self.span: CallSpan | None = None  # Of the call upstream, where there is tracing.
        self.begun = False  # Whether the request went out to an upstream.
        self.service_tier: str | None = None  # As the answer says: the caller's wish is none.
        self.images = 0
        self._output = CountedOutput()
        self._reported: Mapping[str, Any] | None = None  # Usage that came before the end.
        self._loop = asyncio.get_running_loop()
        self._touching: asyncio.Task[None] | None = None
        # A timer and no task: nearly all requests end before their first heartbeat.
        self._heartbeat = self._loop.call_later(ttl_s / HEARTBEATS_PER_TTL, self._beat)

    @property
    def request_id(self) -> str:
        return self._hold.request_id

    def remaining(self, receipt: Receipt | None) -> int:
        """Millicredits left to the user, with what open holds keep: after the charge, or when the
        hold was taken if there is no receipt.
        """
        at = self._hold if receipt is None else receipt
        return at.available + at.held

    @property
    def cost(self) -> int | None:
        """Millicredits that this request costs, once that is decided."""
        return None if self._decided is None else self._decided[0]

    @property
    def counted(self) -> dict[str, Any]:
        """The usage that was charged, for who asked for one that the upstream did not tell."""
        usage = {} if self._decided is None else self._decided[1].metadata
        prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": usage.get("tokens_used", 0),
            "estimated": True,
        }

    def went_out(self) -> None:
        """The request was written to an upstream, which works and will want its money."""
        self.begun = True

    def tells_output(self, usage: Mapping[str, Any] | None) -> bool:
        """Whether a usage can be read and has an output, so that nothing must be counted."""
        reported = self._read(usage)
        return reported is not None and counts_of(reported.usage).output > 0

    def count(self, step: EventOutput) -> None:
        """Count what an answer has brought that is charged at once."""
        self._output.add(step)

    def grow(self, step: EventOutput) -> None:
        """Count what an event has brought, and report it within a moment."""
        if step.streamed != NO_OUTPUT or step.whole != NO_OUTPUT:
            self._output.add(step)
            self._keepers.progress.note(self, self._report)

    def hear(self, usage: Mapping[str, Any]) -> bool:
        """Remember usage that came on the way, if it can be true: the last one counts. Returns
        whether it can.
        """
        reported = self._read(usage)
        if reported is not None:
            self._reported = reported.usage
            self._keepers.progress.note(self, self._report)
        return reported is not None

    async def finish(self, usage: Mapping[str, Any] | None) -> Receipt | None:
        """Charge for a completed answer: by the upstream's usage object, or by what was counted if
        there is none that can be read.

        Returns the receipt, or None when the meter could not take the charge yet: then it is kept.
        """
        reported = self._read(usage)
        if reported is None:
            return await self._commit(self._so_far(), estimated=True)
        if reported.is_capped:
            logger.warning(
                "request %s: the usage that upstream %s reports is beyond what one request "
                "can use, and was cut: %.500r",
                self.request_id,
                self.target.upstream.name,
                usage,
            )
        return await self._commit(reported.usage, estimated=False, is_capped=reported.is_capped)

    async def break_off(self, *, by_caller: bool = False) -> None:
        """End a request that did not complete: what was delivered is charged, and nothing if
        nothing was, unless it was the caller who left when the upstream was at work.

        Does nothing after `finish` or `release`. A charge that was under way is completed, not
        changed.
        """
        if self._ended:
            return
        if self._decided is not None:
            await self._apply()
        elif self._made.tokens or self._reported or (by_caller and self.begun):
            await self._commit(self._so_far(), estimated=True)
        else:
            await self.release()

    async def release(self, error: BaseException | None = None) -> None:
        """Give the hold back: nothing was delivered, because of `error`. A failure of this is left
        to the deadline.
        """
        if self._ended or self._decided is not None:
            return
        self._ended = True
        if self.span is not None:
            self.span.failed(error)
        self._stop_reports()
        try:
            await self._hold.release()
        except UnknownHold:
            pass  # It expired meanwhile, without a charge.
        except MeterError as error:
            logger.warning("hold %s was left to its deadline: %r", self.request_id, error)

    @property
    def _made(self) -> Output:
        return self._output.made

    @property
    def _price(self) -> Price:
        """The price of who answers, as it was when the hold was taken."""
        return self._prices[self.target]

    def _read(self, usage: Mapping[str, Any] | None) -> ReportedUsage | None:
        return read_usage(
            usage,
            self._bounds[self.target],
            delivered=self._made.tokens,
            makes_output=self._chat.surface.fixed_output is None,
        )

    def _so_far(self) -> Mapping[str, Any]:
        """What an answer without a usage has used: as counted, or as the upstream said on the way
        if that is more, since it knows also what a model did unseen.
        """
        made = self._made
        counted: dict[str, Any] = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": made.tokens,
        }
        if made.audio or made.images:
            counted["completion_tokens_details"] = {
                "audio_tokens": made.audio,
                "image_tokens": made.tokens - made.text - made.audio,
            }
        return max(counted, self._reported or counted, key=self._price.cost)

    async def _commit(
        self, usage: Mapping[str, Any], *, estimated: bool, is_capped: bool = False
    ) -> Receipt | None:
        if self._decided is None:
            self._decided = self._decide(usage, estimated=estimated, is_capped=is_capped)
            if self.span is not None:
                self.span.charged(*self._decided)
        return await self._apply()

    def _decide(
        self, usage: Mapping[str, Any], *, estimated: bool, is_capped: bool = False
    ) -> tuple[int, Usage]:
        priced = {**usage, "images": self.images} if self.images else usage
        cost = self._price.cost(priced, service_tier=self.service_tier)
        return cost, self._usage(usage, estimated=estimated, is_capped=is_capped)

    async def _apply(self) -> Receipt | None:
        """Make the decided charge, or keep it on disk for later."""
        self._stop_reports()
        assert self._decided is not None, "an amount is decided before it is applied"
        amount, usage = self._decided
        pending = self._keepers.pending
        try:
            receipt = await self._hold.commit(amount, usage=usage)
        except (*LATER, WrongCell) as error:
            logger.warning("the charge of %s is kept for later: %r", self.request_id, error)
            self._ended = True
            await pending.keep(self._due(amount, usage))
            return None
        except MeterError as error:
            self._ended = True
            self._give_up(amount, error)
            receipt = None
        except asyncio.CancelledError:
            # The process ends. It may still be made; then making it again changes nothing.
            pending.keep_soon(self._due(amount, usage))
            raise
        self._ended = True
        if self._is_noted:
            await pending.ended(self._hold.org_id, self.request_id)
        return receipt

    def _due(self, amount: int, usage: Usage, *, is_final: bool = True) -> Due:
        hold = self._hold
        return Due(hold.org_id, hold.user_id, hold.request_id, amount, usage.payload(), is_final)

    def _give_up(self, amount: int, error: MeterError) -> None:
        """The last record of a charge that the meter refuses: everything that is needed to book it
        by hand.
        """
        logger.error(
            "charge not applied: org=%s user=%s request=%s credits=%s outcome=%s error=%r",
            self._hold.org_id,
            self._hold.user_id,
            self.request_id,
            text_of_credits(amount),
            error.outcome if isinstance(error, RequestConflict) else None,
            error,
        )

    def _is_over(self) -> bool:
        """Whether its end is decided: while something was waited for, that can have come."""
        return self._ended or self._decided is not None

    def _beat(self) -> None:
        self._touching = self._loop.create_task(self._touch())

    def _stop_reports(self) -> None:
        self._heartbeat.cancel()
        self._keepers.progress.forget(self)
        if self._touching is not None:
            self._touching.cancel()

    async def _touch(self) -> None:
        await self._report()
        self._heartbeat = self._loop.call_later(self._ttl_s / HEARTBEATS_PER_TTL, self._beat)

    async def _report(self) -> None:
        """Move the deadline, and report what is owed so far for the case that this process dies:
        while the meter is away, on disk.
        """
        if self._is_over():
            return
        progress, usage = 0, None
        if self._made.tokens or self._reported:
            progress, usage = self._decide(self._so_far(), estimated=True)
        try:
            await self._hold.touch(progress, ttl_s=self._ttl_s, usage=usage)
        except LATER:
            if usage is not None and not self._is_over():
                self._is_noted = True
                await self._keepers.pending.keep(self._due(progress, usage, is_final=False))
        except MeterError:
            pass  # One missed heartbeat is what the margin in the deadline is for.

    def _usage(
        self, tokens: Mapping[str, Any], *, estimated: bool, is_capped: bool = False
    ) -> Usage:
        prompt, completion = tokens.get("prompt_tokens"), tokens.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            counts = counts_of(tokens)
            prompt, completion = counts.prompt, counts.output
        metadata: dict[str, object] = {
            "provider": self.target.upstream.name,
            "model": self._chat.model,
            "tokens_used": prompt + completion,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "power_level": self.target.power_level or self._chat.power_level,
            "task_type": self._chat.task_type,
            **self._price.metadata(tokens, self.service_tier),
        }
        if self.target.model != self._chat.model:
            metadata["upstream_model"] = self.target.model
        if self._key_id is not None:
            metadata["key_id"] = self._key_id
        if self._chat.tag is not None:
            metadata["tag"] = self._chat.tag
        if self._chat.stream:
            metadata["stream"] = True
        if estimated:
            metadata["estimated"] = True
        if is_capped:
            metadata["usage_capped"] = True
        return Usage("llm_inference", self._chat.model, metadata)
