"""Relays a streamed completion and charges it, also when either side leaves in the middle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from starlette.types import Receive, Scope, Send

from taximeter.api.background import TaskTracker
from taximeter.api.errors import UPSTREAM_ERROR, ApiError, error_content
from taximeter.api.exact import credits_of
from taximeter.api.llm.answer import raw_headers
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.chat import ChatRequest
from taximeter.api.llm.estimates import delta_text, output_guess
from taximeter.api.llm.sse import (
    DONE,
    Event,
    EventReader,
    StreamBroken,
    encode_event,
    without_usage,
)
from taximeter.api.llm.upstream import FAILURES, unreachable

logger = logging.getLogger("taximeter.api")


class CompletionStream:
    """The upstream's side of a stream: its events, those together that came together."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._reader = EventReader()
        self._first: list[Event] = []
        self._failed: ApiError | None = None
        self._ended = False

    async def first(self) -> None:
        """Wait for the first event, so that a failure before it can still be answered with a status
        of its own.

        Raises ApiError when there is none or it is an error.
        """
        self._first = await self.more()
        if not self._first:
            raise _broken("the stream was empty")

    async def more(self) -> list[Event]:
        """The next events, or none at the end. Raises ApiError when the upstream breaks off, after
        all events before that were returned.
        """
        if self._first:
            events, self._first = self._first, []
            return events
        if self._failed is not None:
            raise self._failed
        try:
            while not self._ended:
                part = await self._response.content.readany()
                self._ended = not part
                events = self._reader.feed(part) if part else self._reader.rest()
                if events:
                    return self._before_error(events)
        except (*FAILURES, StreamBroken) as error:
            raise _failure(error) from error
        return []

    def _before_error(self, events: list[Event]) -> list[Event]:
        for place, event in enumerate(events):
            if event.document is not None and "error" in event.document:
                self._failed = _broken("an event was an error")
                if place == 0:
                    raise self._failed
                return events[:place]
        return events

    def close(self) -> None:
        """Stop the upstream: it notices that nobody reads any more. A stream that was read to its
        end keeps its connection.
        """
        self._response.close()


class MeteredStream:
    """The answer to a streaming request.

    An answer of its own kind, because whatever a generator awaits in `finally` is cancelled again
    when the client is gone. Here the relay is a task that this class watches, and its end is handed
    to the application's own tasks.
    """

    def __init__(
        self,
        stream: CompletionStream,
        charge: OpenCharge,
        chat: ChatRequest,
        tracker: TaskTracker,
        headers: Mapping[str, str],
    ) -> None:
        self._headers = [
            *raw_headers(headers),
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # Proxies must pass each token on as it comes.
        ]
        self._stream = stream
        self._charge = charge
        self._chat = chat
        self._tracker = tracker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.create_task(_until_disconnect(receive))
        relay: asyncio.Task[None] | None = None
        try:
            # A client that is gone already is noticed before anything counts as delivered.
            await asyncio.sleep(0)
            if not left.done():
                relay = asyncio.create_task(self._relay(send))
                await asyncio.wait({left, relay}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            # Only spawned, not awaited: this very task may be in the middle of being cancelled.
            self._tracker.spawn(self._end(relay))

    async def _end(self, relay: asyncio.Task[None] | None) -> None:
        """Stop what still runs, then charge what was delivered. After a complete stream there is
        nothing left to do.
        """
        try:
            if relay is not None:
                relay.cancel()
                await asyncio.gather(relay, return_exceptions=True)
                if not relay.cancelled() and (error := relay.exception()) is not None:
                    logger.warning("stream %s ended early: %r", self._charge.request_id, error)
        finally:
            try:
                self._stream.close()
            finally:
                await self._charge.break_off()

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        try:
            usage_chunk, usage, tier = await self._relay_events(send)
        except ApiError as error:
            await self._charge.break_off()
            content = error_content(error.code, error.message, error.details)
            await _write(send, encode_event(content), last=True)
            return
        receipt = await self._charge.finish(usage, tier)
        end = DONE
        if usage_chunk is not None and self._chat.wants_usage:
            remaining = self._charge.remaining
            if receipt is not None:
                remaining = receipt.available + receipt.held
            end = encode_event(self._with_cost(usage_chunk, remaining)) + DONE
        await _write(send, end, last=True)

    async def _relay_events(
        self, send: Send
    ) -> tuple[dict[str, Any] | None, Mapping[str, Any] | None, str | None]:
        """Pass on everything but the usage chunk and the end; returns that chunk, the usage and the
        service tier.

        The chunk is kept back until the charge is made, since it tells the cost. Raises ApiError
        when the upstream breaks off.
        """
        usage_chunk: dict[str, Any] | None = None
        usage: Mapping[str, Any] | None = None
        tier: str | None = None
        finished = done = False
        wants_usage = self._chat.wants_usage
        while not done and (events := await self._stream.more()):
            parts: list[bytes] = []
            tokens = 0
            for event in events:
                document = event.document
                if event.is_done:
                    finished = done = True
                    break
                if document is None:
                    parts.append(event.raw)
                    continue
                if isinstance(document.get("service_tier"), str):
                    tier = document["service_tier"]
                choices = document.get("choices")
                reported = document.get("usage")
                if isinstance(reported, dict):
                    usage = reported
                    if not choices:
                        usage_chunk = document
                        continue
                if isinstance(choices, list):
                    for choice in choices:
                        if isinstance(choice, dict):
                            tokens += output_guess(delta_text(choice.get("delta")))
                            finished = finished or choice.get("finish_reason") is not None
                parts.append(event.raw if wants_usage else without_usage(event))
            if parts:
                await _write(send, b"".join(parts))
                self._charge.delivered_tokens += tokens
        if not finished:
            raise _broken("the stream ended without an end")
        return usage_chunk, usage, tier

    def _with_cost(self, chunk: Mapping[str, Any], remaining: int) -> dict[str, Any]:
        usage = {
            **chunk["usage"],
            "cost_incurred": credits_of(self._charge.cost or 0),
            "credits_remaining": credits_of(remaining),
        }
        return {**chunk, "usage": usage}


async def _write(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _broken(what: str) -> ApiError:
    logger.warning("the upstream's stream broke: %s", what)
    return ApiError(502, "The provider broke off", code=UPSTREAM_ERROR)


def _failure(error: Exception) -> ApiError:
    return _broken(str(error)) if isinstance(error, StreamBroken) else unreachable(error)
