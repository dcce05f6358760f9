"""The open hold of one request, from the reserve to its one end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from taximeter.api.background import TaskTracker
from taximeter.api.errors import text_of_credits
from taximeter.api.llm.request import LlmRequest
from taximeter.api.llm.routing import Target
from taximeter.meter import (
    Hold,
    MeterError,
    NotConfirmed,
    Overloaded,
    Receipt,
    RequestConflict,
    StoreError,
    UnknownHold,
    Usage,
)
from taximeter.meter.pricing import Price

logger = logging.getLogger("taximeter.api")

HEARTBEATS_PER_TTL = 3
SETTLE_ATTEMPTS_MAX = 30
SETTLE_PAUSE_MAX_S = 5.0


class OpenCharge:
    """Keeps a hold alive, and ends it once: with what the upstream reported, what was delivered, or
    nothing.

    The amount is decided once. Whatever happens to the request after that, the same commit is
    repeated until it is known to be applied: the meter takes a repeated commit for the one that it
    is. If this process dies before, the hold expires and the last reported progress is charged.
    """

    def __init__(
        self,
        hold: Hold,
        chat: LlmRequest,
        prices: Mapping[Target, Price],
        tracker: TaskTracker,
        *,
        prompt_tokens: int,
        ttl_s: float,
        hold_ms: float,
    ) -> None:
        self._hold = hold
        self._chat = chat
        self._prices = prices
        self._tracker = tracker
        self._ttl_s = ttl_s
        self._prompt_tokens = prompt_tokens  # Guessed, for when the upstream does not tell.
        self._decided: tuple[int, Usage] | None = None
        self._ended = False
        self.target = next(iter(prices))  # Who answers; until that is known, who is asked first.
        self.hold_ms = hold_ms
        self.delivered_tokens = 0
        self.reported: Mapping[str, Any] | None = None  # Usage that came before the end.
        self.images = 0
        self._loop = asyncio.get_running_loop()
        self._touching: asyncio.Task[None] | None = None
        # A timer and no task: nearly all requests end before their first heartbeat.
        self._heartbeat = self._loop.call_later(ttl_s / HEARTBEATS_PER_TTL, self._beat)

    @property
    def request_id(self) -> str:
        return self._hold.request_id

    @property
    def remaining(self) -> int:
        """Millicredits left to the user when the hold was taken, with what open holds keep."""
        return self._hold.available + self._hold.held

    @property
    def cost(self) -> int | None:
        """Millicredits that this request costs, once that is decided."""
        return None if self._decided is None else self._decided[0]

    async def finish(
        self, usage: Mapping[str, Any] | None, service_tier: str | None
    ) -> Receipt | None:
        """Charge for a completed answer: by the upstream's usage object, or by what was counted if
        there is none.

        Returns the receipt, or None when the store could not take the commit yet: it then goes on
        in the background.
        """
        if usage is None:
            return await self._commit(self._counted(), service_tier, estimated=True)
        return await self._commit(usage, service_tier, estimated=False)

    async def break_off(self) -> None:
        """End a request that did not complete: what was delivered is charged, and nothing if
        nothing was.

        Does nothing after `finish` or `release`. A commit that was under way is completed, not
        changed.
        """
        if self._ended:
            return
        if self._decided is not None:
            await self._apply()
        elif not self.delivered_tokens:
            await self.release()
        else:
            await self._commit(self._so_far(), self._chat.service_tier, estimated=True)

    async def release(self) -> None:
        """Give the hold back: nothing was delivered. A failure is left to its deadline."""
        if self._ended:
            return
        self._ended = True
        self._stop_heartbeat()
        try:
            await self._hold.release()
        except UnknownHold:
            pass  # It expired meanwhile, without a charge.
        except MeterError as error:
            logger.warning("hold %s was left to its deadline: %r", self.request_id, error)

    def abandon(self) -> None:
        """As `break_off`, in the background: for places that may be cancelled while they wait."""
        if not self._ended:
            self._tracker.spawn(self.break_off())

    @property
    def _price(self) -> Price:
        """The price of who answers, as it was when the hold was taken."""
        return self._prices[self.target]

    def _counted(self) -> Mapping[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.delivered_tokens,
        }

    def _so_far(self) -> Mapping[str, Any]:
        """What an answer without its end has used: as counted, or as the upstream said on the way
        if that is more, since it knows also what a model did unseen.
        """
        counted = self._counted()
        return max(counted, self.reported or counted, key=self._price.cost)

    async def _commit(
        self, usage: Mapping[str, Any], service_tier: str | None, *, estimated: bool
    ) -> Receipt | None:
        if self._decided is None:
            priced = {**usage, "images": self.images} if self.images else usage
            cost = self._price.cost(priced, service_tier=service_tier)
            self._decided = (cost, self._usage(usage, estimated=estimated))
        return await self._apply()

    async def _apply(self) -> Receipt | None:
        """Try the decided commit once here, and after that in the background."""
        self._stop_heartbeat()
        assert self._decided is not None, "an amount is decided before it is applied"
        amount, usage = self._decided
        try:
            receipt = await self._hold.commit(amount, usage=usage)
        except (StoreError, Overloaded) as error:
            logger.warning("commit of %s goes on in the background: %r", self.request_id, error)
            self._ended = True
            self._tracker.spawn(self._keep_trying())
            return None
        except MeterError as error:
            self._give_up(error)
            return None
        self._ended = True
        return receipt

    async def _keep_trying(self) -> None:
        assert self._decided is not None, "an amount is decided before it is applied"
        amount, usage = self._decided
        last: MeterError | None = None
        for attempt in range(SETTLE_ATTEMPTS_MAX):
            await asyncio.sleep(min(0.1 * 2**attempt, SETTLE_PAUSE_MAX_S))
            try:
                await self._hold.commit(amount, usage=usage)
                return
            except (StoreError, Overloaded) as error:
                last = error
            except MeterError as error:
                self._give_up(error)
                return
        if last is not None:
            self._give_up(last)

    def _give_up(self, error: MeterError) -> None:
        """The last record of a charge that no store has taken: everything that is needed to book it
        by hand. What was done and not confirmed needs no hand, unless its server is lost.
        """
        self._ended = True
        if isinstance(error, NotConfirmed):
            logger.error("charge applied and not confirmed: %s: %s", self.request_id, error)
            return
        outcome = error.outcome if isinstance(error, RequestConflict) else None
        logger.error(
            "charge not applied: org=%s user=%s request=%s credits=%s outcome=%s error=%r",
            self._hold.org_id,
            self._hold.user_id,
            self.request_id,
            text_of_credits(self.cost or 0),
            outcome,
            error,
        )

    def _beat(self) -> None:
        self._touching = self._loop.create_task(self._touch())

    def _stop_heartbeat(self) -> None:
        self._heartbeat.cancel()
        if self._touching is not None:
            self._touching.cancel()

    async def _touch(self) -> None:
        """Move the deadline, and report what is owed so far for the case that this process dies."""
        progress, usage = 0, None
        if self.delivered_tokens:
            so_far = self._so_far()
            progress = self._price.cost(so_far)
            usage = self._usage(so_far, estimated=True)
        # One missed heartbeat is what the margin in the deadline is for.
        with contextlib.suppress(MeterError):
            await self._hold.touch(progress, ttl_s=self._ttl_s, usage=usage)
        self._heartbeat = self._loop.call_later(self._ttl_s / HEARTBEATS_PER_TTL, self._beat)

    def _usage(self, tokens: Mapping[str, Any], *, estimated: bool) -> Usage:
        prompt, completion = tokens.get("prompt_tokens"), tokens.get("completion_tokens")
        metadata: dict[str, object] = {
            "provider": self.target.upstream.name,
            "model": self._chat.model,
            "tokens_used": sum(n for n in (prompt, completion) if isinstance(n, int)),
            "prompt_tokens": prompt if isinstance(prompt, int) else 0,
            "completion_tokens": completion if isinstance(completion, int) else 0,
            "power_level": self._chat.power_level,
            "task_type": self._chat.task_type,
            **self._price.metadata(),
        }
        if self.target.model != self._chat.model:
            metadata["upstream_model"] = self.target.model
        if self._chat.stream:
            metadata["stream"] = True
        if estimated:
            metadata["estimated"] = True
        return Usage("llm_inference", self._chat.model, metadata)
