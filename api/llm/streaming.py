"""Relays a streamed answer and charges it, also when either side leaves in the middle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from taximeter.api.errors import ApiError, error_content
from taximeter.api.exact import credits_of
from taximeter.api.llm.answer import raw_headers
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.event_stream import EventStream
from taximeter.api.llm.request import LlmRequest
from taximeter.api.llm.sse import (
    DONE,
    Event,
    encode_event,
    with_data,
    without_usage,
)

logger = logging.getLogger("taximeter.api")

USAGE_WAIT_S = 5.0
"""How long the usage of an answer that is complete is waited for after its caller has left."""
STALLED_S = 60.0
"""A caller who takes nothing for so long has left: the upstream's connection and the hold are not
kept for who is connected and does not read.
"""


class _Ending(NamedTuple):
    """How a stream ended: the last event with usage, that usage, the service tier, and whether the
    mark of the end came.
    """

    usage_event: Event | None
    usage: Mapping[str, Any] | None
    tier: str | None
    was_marked: bool


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
            self._left.cancel()
            # Only spawned, not awaited: this very task may be in the middle of being cancelled.
            self._spawn(self._end(relay))

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
                relay.cancel()
                return

    async def _end(self, relay: asyncio.Task[None] | None) -> None:
        """Stop what still runs, then charge what was delivered. After a complete stream there is
        nothing left to do. An answer that is complete but for its usage is read on, and so is any
        where the operator wants it: the hidden reasoning of a model is in its usage alone.
        """
        try:
            if relay is not None:
                try:
                    patience_s = USAGE_WAIT_S if self._is_complete else 0.0
                    await asyncio.wait({relay}, timeout=None if self._finishes else patience_s)
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
                await self._charge.break_off()

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        try:
            ending = await self._relay_events(send)
        except ApiError as error:
            await self._charge.break_off()
            content = error_content(error.code, error.message, error.details)
            await self._write(send, encode_event(content), last=True)
            return
        receipt = await self._charge.finish(ending.usage, ending.tier)
        end = DONE if ending.was_marked or self._chat.surface.asks_for_usage else b""
        if ending.usage_event is not None and self._chat.wants_usage:
            remaining = self._charge.remaining
            if receipt is not None:
                remaining = receipt.available + receipt.held
            end = self._with_cost(ending.usage_event, remaining) + end
        await self._write(send, self._stream.without_key(end), last=True)

    async def _relay_events(self, send: Send) -> _Ending:
        """Pass on everything but the event with the usage and the mark of the end. Raises ApiError
        when the upstream breaks off.

        That event is kept back until the charge is made, since it tells the cost.
        """
        surface, wants_usage = self._chat.surface, self._chat.wants_usage
        usage_event: Event | None = None
        usage: Mapping[str, Any] | None = None
        tier: str | None = None
        ended: set[str] = set()
        marked = False
        while not marked and (events := await self._stream.more()):
            parts: list[bytes] = []
            tokens = 0
            for event in events:
                document = event.document
                if event.is_done:
                    marked = True
                    break
                if document is None:
                    parts.append(event.raw)
                    continue
                if isinstance(document.get("service_tier"), str):
                    tier = document["service_tier"]
                brought, complete = surface.step(document)
                tokens += brought
                ended.update(complete)
                reported = surface.usage(document)
                if reported is not None:
                    usage, usage_event = reported, event
                    self._charge.reported = reported
                    if surface.is_usage_event(document):
                        continue
                parts.append(event.raw if wants_usage else without_usage(event))
            if parts:
                await self._write(send, self._stream.without_key(b"".join(parts)))
                self._charge.delivered_tokens += tokens
            self._is_complete = marked or len(ended) >= self._chat.n
        if not self._is_complete:
            raise self._stream.broken("it ended without an end")
        return _Ending(usage_event, usage, tier, marked)

    async def _write(self, send: Send, body: bytes, *, last: bool = False) -> None:
        if self._left.done():
            return
        self._writing_since = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": not last})
        self._writing_since = float("inf")

    def _with_cost(self, event: Event, remaining: int) -> bytes:
        assert event.document is not None, "usage was read from it"
        cost = {
            "cost_incurred": credits_of(self._charge.cost or 0),
            "credits_remaining": credits_of(remaining),
        }
        return with_data(event, self._chat.surface.with_cost(event.document, cost))


async def until_disconnect(receive: Receive) -> None:
    """Return when the client is gone, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
