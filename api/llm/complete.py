"""One request: hold, call upstream, relay, charge the actual usage."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.types import ASGIApp, Receive

from taximeter.api.errors import ApiError, text_of_credits
from taximeter.api.llm.admission import (
    dearest,
    paying_org,
    refuse_settled_replay,
    request_id_of,
    reserve,
)
from taximeter.api.llm.answer import Answer
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.event_stream import EventStream
from taximeter.api.llm.failures import broken
from taximeter.api.llm.parse import parse_request
from taximeter.api.llm.request import LlmRequest
from taximeter.api.llm.routing import Target, ask
from taximeter.api.llm.streaming import MeteredStream, until_disconnect
from taximeter.api.llm.surfaces import Surface
from taximeter.api.services import Services
from taximeter.meter import Receipt

# Of an upstream's headers, the ones that help its users: no others reach a caller.
_ANSWER_HEADERS = {
    "x-request-id": "X-Upstream-Request-Id",
    "openai-processing-ms": "OpenAI-Processing-Ms",
    "content-type": "Content-Type",
}


class ClientLeft(Exception):
    """The client is gone: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came, from a caller who is known. `forwarded`: headers for the upstream."""

    surface: Surface
    user_id: str
    content: bytes
    org_header: str | None
    key: str | None
    forwarded: Mapping[str, str]
    receive: Receive


async def complete(services: Services, incoming: Incoming) -> ASGIApp:
    """Hold, start the answer and return it. Raises ApiError, ClientLeft, MeterError and what
    asyncpg raises; nothing is held then, or given back in the background.
    """
    chat = parse_request(incoming.content, incoming.surface)
    if services.router is None:
        raise ApiError(
            503,
            "No provider is configured (TAXIMETER_UPSTREAM_BASE_URL or TAXIMETER_UPSTREAMS_FILE)",
            details={"reason": "upstream_not_configured"},
        )
    targets = services.router.targets(chat.model)
    membership = await paying_org(services, incoming.user_id, incoming.org_header)
    org_id = membership.org_id
    estimate, prices = dearest(services, chat, targets, membership.plan_code)
    request_id = request_id_of(incoming.user_id, incoming.key)
    if incoming.key is not None:
        await refuse_settled_replay(services, org_id, request_id)
    meter = await services.meters.get()
    started = time.perf_counter()
    hold = await reserve(services, meter, chat, estimate, org_id, incoming.user_id, request_id)
    hold_ms = (time.perf_counter() - started) * 1000
    charge = OpenCharge(
        hold,
        chat,
        prices,
        services.tracker,
        ttl_s=services.settings.hold_ttl_s,
        hold_ms=hold_ms,
    )
    call = _Call(
        services, chat, charge, tuple(prices), {**incoming.forwarded, "X-Request-Id": request_id}
    )
    try:
        if chat.stream:
            return await call.stream(incoming.receive)
        return await call.answer()
    except ApiError as error:
        error.headers["X-Request-Id"] = request_id
        if incoming.key is not None:
            # The key is used: a client that repeats it would only be told so.
            error.headers["X-Should-Retry"] = "false"
        raise
    except BaseException:
        charge.abandon()
        raise


class _Call:
    """The call upstream for one hold. It runs as a task of the application: if the server gives the
    request up, the call still ends, and is charged.
    """

    def __init__(
        self,
        services: Services,
        chat: LlmRequest,
        charge: OpenCharge,
        targets: tuple[Target, ...],
        headers: Mapping[str, str],
    ) -> None:
        self._tracker = services.tracker
        self._finishes = services.settings.left_streams == "finish"
        self._chat = chat
        self._charge = charge
        self._targets = targets
        self._headers = headers

    async def answer(self) -> ASGIApp:
        """One whole answer. A client that leaves meanwhile still pays: its provider does the work
        to the end.
        """
        return await asyncio.shield(self._tracker.spawn(self._answer()))

    async def stream(self, receive: Receive) -> ASGIApp:
        """The start of a stream. Until its first event the request can still fail with a status of
        its own, and a client that leaves pays nothing.
        """
        left = asyncio.create_task(until_disconnect(receive))
        opening = self._tracker.spawn(self._open())
        try:
            await asyncio.wait({left, opening}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                raise ClientLeft
            stream, headers = opening.result()
        except BaseException:
            left.cancel()
            # Only spawned, not awaited: this very task may be in the middle of being cancelled.
            self._tracker.spawn(self._drop(opening))
            raise
        return MeteredStream(
            stream,
            self._charge,
            self._chat,
            self._tracker,
            headers,
            left,
            finishes=self._finishes,
        )

    async def _answer(self) -> ASGIApp:
        charge, surface = self._charge, self._chat.surface
        try:
            target, response = await ask(self._targets, self._chat, self._headers)
            charge.target = target
            content = await target.upstream.read(response)
            document = _object(content)
            usage = surface.usage(document)
            if usage is None and not surface.is_answer(document):
                raise broken("it held nothing of what was asked for", target.upstream.name)
        except BaseException:
            await charge.release()
            raise
        charge.images = surface.images(document)
        if usage is None:
            charge.delivered_tokens = surface.output(document)
        tier = document.get("service_tier")
        receipt = await charge.finish(usage, tier if isinstance(tier, str) else None)
        headers = self._answer_headers(response, receipt)
        headers["X-Cost-Incurred"] = text_of_credits(charge.cost or 0)
        if receipt is None:
            headers["X-Charge-Pending"] = "true"
        return Answer(content, headers)

    async def _open(self) -> tuple[EventStream, dict[str, str]]:
        stream: EventStream | None = None
        try:
            target, response = await ask(self._targets, self._chat, self._headers)
            self._charge.target = target
            stream = EventStream(target.upstream, response, self._chat.surface)
            await stream.first()
        except BaseException:
            if stream is not None:
                stream.close()
            await self._charge.release()
            raise
        return stream, self._answer_headers(response, None)

    async def _drop(self, opening: asyncio.Task[tuple[EventStream, dict[str, str]]]) -> None:
        """End a call whose stream nobody will read."""
        opening.cancel()
        [result] = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(result, tuple):
            result[0].close()
        await self._charge.break_off()

    def _answer_headers(
        self, response: aiohttp.ClientResponse, receipt: Receipt | None
    ) -> dict[str, str]:
        charge = self._charge
        remaining = charge.remaining if receipt is None else receipt.available + receipt.held
        headers = {
            "X-Request-Id": charge.request_id,
            "X-Provider-Used": charge.target.upstream.name,
            "X-Credits-Remaining": text_of_credits(remaining),
            "Server-Timing": f"hold;dur={charge.hold_ms:.2f}",
        }
        for name, shown in _ANSWER_HEADERS.items():
            if (value := response.headers.get(name)) is not None:
                headers[shown] = charge.target.upstream.hidden(value)
        return headers


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
