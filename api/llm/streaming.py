"""Relays a streamed answer and charges it, also when either side leaves in the middle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from taximeter.api.llm.asgi_answer import raw_headers
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.failure_answers import failure_content
from taximeter.api.openai.output import EventOutput, Output, tokens_guessed
from taximeter.api.openai.request import LlmRequest
from taximeter.api.openai.sse import (
    DONE,
    Event,
    data_of,
    encode_event,
    with_data,
    without_usage,
)
from taximeter.api.upstreams.event_stream import EventStream
from taximeter.api.web.errors import ApiError
from taximeter.meter import Receipt
from taximeter.meter.wire.credits import credits_of

logger = logging.getLogger("taximeter.api")

USAGE_WAIT_S = 5.0
"""How long the usage of an answer that is complete is waited for after its caller has left."""
STALLED_S = 60.0
"""A caller who takes nothing for so long has left: the upstream's connection and the hold are not
kept for who is connected and does not read.
"""


class MeteredStream:
    """The answer to a streaming request.

    An answer of its own kind, because whatever a generator awaits in `finally` is cancelled again
    when the client is gone. Here the relay is a task that this class watches, and its end is handed
    to the application's own tasks.
    """

    def __init__(
        self,
        stream: EventStream,
        charge: OpenCharge,
        chat: LlmRequest,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        headers: Mapping[str, str],
        left: asyncio.Task[None],
        *,
        finishes: bool,
    ) -> None:
        self._headers = [
            *raw_headers({**headers, "Content-Type": "text/event-stream; charset=utf-8"}),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # Proxies must pass each token on as it comes.
        ]
        self._stream = stream
        self._charge = charge
        self._chat = chat
        self._spawn = spawn
        self._left = left
        self._finishes = finishes
        self._is_complete = False
        self._is_stalled = False
        self._is_marked = False
        self._usage_event: Event | None = None
        self._usage: Mapping[str, Any] | None = None
        self._ended: set[str] = set()
        self._writing_since = float("inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        relay: asyncio.Task[None] | None = None
        try:
            # A client that is gone already is noticed before anything counts as delivered.
            await asyncio.sleep(0)
            if not self._left.done():
                relay = asyncio.create_task(self._relay(send))
                await self._until_over(relay)
        finally:
            has_left = self._left.done() or self._is_stalled
            self._left.cancel()
            # Only spawned, not awaited: this very task may be in the middle of being cancelled.
            self._spawn(self._end(relay, has_left=has_left))

    async def read_alone(self) -> None:
        """Read the answer to its end and charge it, when its caller has left before it began."""
        await self._end(None, has_left=True)

    async def _until_over(self, relay: asyncio.Task[None]) -> None:
        """Return when the relay has ended, or its caller has left or does not read."""
        loop, both = asyncio.get_running_loop(), {self._left, relay}
        while True:
            over, _ = await asyncio.wait(
                both, timeout=STALLED_S / 2, return_when=asyncio.FIRST_COMPLETED
            )
            if over:
                return
            if loop.time() - self._writing_since > STALLED_S:
                logger.warning("the caller of stream %s does not read", self._charge.request_id)
                self._is_stalled = True
                relay.cancel()
                return

    async def _end(self, relay: asyncio.Task[None] | None, *, has_left: bool) -> None:
        """Stop what still runs, then charge what was delivered. After a complete stream there is
        nothing left to do. An answer that is complete but for its usage is read on, and so is any
        whose caller has left, where the operator wants it: the hidden reasoning of a model is in
        its usage alone.
        """
        finishes = self._finishes and has_left
        try:
            if finishes and (relay is None or self._is_stalled):
                if relay is not None:
                    await asyncio.gather(relay, return_exceptions=True)
                relay = asyncio.create_task(self._read_on())
            if relay is not None:
                try:
                    patience_s = USAGE_WAIT_S if self._is_complete else 0.0
                    await asyncio.wait({relay}, timeout=None if finishes else patience_s)
                finally:
                    relay.cancel()
                await asyncio.gather(relay, return_exceptions=True)
                if not relay.cancelled() and (error := relay.exception()) is not None:
                    logger.warning(
                        "stream %s ended early: %s", self._charge.request_id, type(error).__name__
                    )
        finally:
            try:
                self._stream.close()
            finally:
                await self._charge.break_off(by_caller=has_left)

    async def _relay(self, send: Send) -> None:
        headers, self._headers = self._headers, []  # A stream may stay open for long.
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        del headers
        try:
            await self._relay_events(send)
        except ApiError as error:
            await self._charge.break_off(by_caller=self._left.done())
            await self._write(send, encode_event(failure_content(error)), last=True)
            return
        receipt = await self._charge.finish(self._usage)
        end = DONE if self._is_marked or self._chat.surface.asks_for_usage else b""
        if self._chat.wants_usage:
            end = self._cost_event(receipt) + end
        await self._write(send, self._stream.without_key(end), last=True)

    async def _read_on(self) -> None:
        """Read what nobody gets, and charge it."""
        try:
            await self._relay_events(None)
        except ApiError:
            return  # What was counted is charged where this ends.
        await self._charge.finish(self._usage)

    async def _relay_events(self, send: Send | None) -> None:
        """Pass on everything but the event with the usage and the mark of the end. Raises ApiError
        when the upstream breaks off.

        That event is kept back until the charge is made, since it tells the cost. What is kept of
        the stream stands in this object, so that it can be read on by another.
        """
        while not self._is_marked and (events := await self._stream.more()):
            # Counted before it is written: a write that waits is already on its way.
            parts = [part for event in events if (part := self._take(event))]
            self._is_complete = self._has_end()
            content = b"".join(parts)
            # Neither is kept while the next one is waited for: many streams wait at a time.
            del events, parts
            if content and send is not None:
                await self._write(send, self._stream.without_key(content))
        if not self._is_complete:
            raise self._stream.broken("it ended without an end")

    def _has_end(self) -> bool:
        return self._is_marked or len(self._ended) >= self._chat.n

    def _take(self, event: Event) -> bytes:
        """Count one event; returns what is passed on of it now."""
        if event.is_done or self._is_marked:
            self._is_marked = True
            return b""
        document, surface, charge = event.document, self._chat.surface, self._charge
        if document is None:
            if data := data_of(event):
                charge.grow(EventOutput(Output(tokens_guessed(data))))
            return event.raw
        if isinstance(tier := document.get("service_tier"), str):
            charge.service_tier = tier
        step = surface.event_output(document)
        charge.grow(step)
        self._ended.update(step.ended)
        reported = surface.usage(document)
        if reported is not None:
            self._usage = reported if charge.hear(reported) else None
            self._usage_event = event
            if surface.is_usage_event(document):
                return b""
        return event.raw if self._chat.wants_usage else without_usage(event)

    async def _write(self, send: Send, body: bytes, *, last: bool = False) -> None:
        if self._left.done() or self._is_stalled:
            return
        self._writing_since = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": not last})
        self._writing_since = float("inf")

    def _cost_event(self, receipt: Receipt | None) -> bytes:
        """The event that tells usage and cost, of our own where the upstream sent none."""
        cost: dict[str, Any] = {
            "cost_incurred": credits_of(self._charge.cost or 0),
            "credits_remaining": credits_of(self._charge.remaining(receipt)),
        }
        if receipt is None:
            cost["charge_pending"] = True
        event, surface = self._usage_event, self._chat.surface
        if event is None or event.document is None:
            if not surface.asks_for_usage:
                return b""
            event = Event(b"", surface.usage_chunk(self._chat.model, self._charge.counted), False)
        assert event.document is not None, "usage was read from it"
        return with_data(event, surface.with_cost(event.document, cost))
