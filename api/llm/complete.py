"""One request: hold, call upstream, relay, charge the actual usage."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import ASGIApp, Receive

from taximeter.api.access.memberships import Membership
from taximeter.api.llm.admission import (
    bounds_for,
    refuse_settled_replay,
    request_id_of,
    reserve,
)
from taximeter.api.llm.asgi_answer import Answer
from taximeter.api.llm.body import ClientLeft
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.estimates import measure
from taximeter.api.llm.quote import quote
from taximeter.api.llm.services import LlmServices
from taximeter.api.llm.streaming import MeteredStream, until_disconnect
from taximeter.api.openai.output import EventOutput
from taximeter.api.openai.parse import parse_request
from taximeter.api.openai.request import LlmRequest
from taximeter.api.openai.surfaces import Surface
from taximeter.api.upstreams.event_stream import EventStream
from taximeter.api.upstreams.failures import broken
from taximeter.api.upstreams.router import Target, ask
from taximeter.api.upstreams.upstream import Opened
from taximeter.api.web.errors import ApiError
from taximeter.api.web.fair_shares import Share
from taximeter.meter import Receipt
from taximeter.meter.wire.credits import text_of_credits

T = TypeVar("T")

# Of an upstream's headers, the ones that help its users: no others reach a caller.
_ANSWER_HEADERS = {
    "x-request-id": "X-Upstream-Request-Id",
    "openai-processing-ms": "OpenAI-Processing-Ms",
    "content-type": "Content-Type",
}


class Place:
    """What a request takes of the process: room for itself, until all of its work has ended, and
    for its body, until that was sent.
    """

    __slots__ = ("_body", "_request", "_users")

    def __init__(self, request: Share, body: Share) -> None:
        self._request = request
        self._body = body
        self._users = 1

    def keep_for(self, task: asyncio.Task[Any]) -> None:
        """Keep the room also until this task has ended."""
        self._users += 1
        task.add_done_callback(lambda _: self.leave())

    def body_grows(self, size: int) -> None:
        """Take so much more room for the body. Raises ApiError 429."""
        self._body.take_more(size)

    def body_is_gone(self) -> None:
        """Give back the room for the body."""
        self._body.give_back()

    def leave(self) -> None:
        """One user less: the last one gives everything back."""
        self._users -= 1
        if not self._users:
            self._body.give_back()
            self._request.give_back()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came, from a caller who is known, and who pays for it. `forwarded`: headers
    for the upstream.
    """

    surface: Surface
    user_id: str
    payer: Membership
    content: bytes
    key: str | None
    forwarded: Mapping[str, str]
    receive: Receive
    place: Place


async def complete(services: LlmServices, incoming: Incoming) -> ASGIApp:
    """Hold, start the answer and return it. Raises ApiError, ClientLeft, MeterError and what
    asyncpg raises; nothing is held then, or given back in the background.
    """
    chat = parse_request(incoming.content, incoming.surface, services.extra_fields)
    if services.router is None:
        raise ApiError(
            503,
            "No provider is configured (TAXIMETER_UPSTREAM_BASE_URL or TAXIMETER_UPSTREAMS_FILE)",
            details={"reason": "upstream_not_configured"},
        )
    targets = services.router.targets(chat.model)
    org_id = incoming.payer.org_id
    prompt = await measure(chat.prompt)
    quoted = quote(
        services.settings, services.pricer, chat, prompt, targets, incoming.payer.plan_code
    )
    request_id = request_id_of(incoming.user_id, incoming.key)
    if incoming.key is not None:
        await refuse_settled_replay(services, org_id, request_id)
    meter = await services.meters.get()
    started = time.perf_counter()
    hold = await reserve(services, meter, quoted, org_id, incoming.user_id, request_id)
    hold_ms = (time.perf_counter() - started) * 1000
    charge = OpenCharge(
        hold,
        chat,
        quoted.prices,
        bounds_for(chat, prompt, quoted.prices),
        services.keepers,
        prompt_tokens=prompt.guess,
        ttl_s=services.settings.hold_ttl_s,
        hold_ms=hold_ms,
    )
    headers = {**incoming.forwarded, "X-Request-Id": request_id}
    chat.limit_output(quoted.output_paid_by(hold.amount))
    call = _Call(services, incoming, chat, charge, tuple(quoted.prices), headers)
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


class _Call:
    """The call upstream for one hold. It runs as a task of the application: if the server gives the
    request up, the call still ends, and is charged.
    """

    def __init__(
        self,
        services: LlmServices,
        incoming: Incoming,
        chat: LlmRequest,
        charge: OpenCharge,
        targets: tuple[Target, ...],
        headers: Mapping[str, str],
    ) -> None:
        self._tracker = services.tracker
        self._finishes = services.settings.left_streams == "finish"
        self._payer = (incoming.payer.org_id, incoming.user_id)
        self._place = incoming.place
        self._chat = chat
        self._charge = charge
        self._targets = targets
        self._headers = headers

    async def answer(self) -> ASGIApp:
        """One whole answer. A client that leaves meanwhile still pays: its provider does the work
        to the end.
        """
        return await asyncio.shield(self._spawn(self._answer()))

    async def stream(self, receive: Receive) -> ASGIApp:
        """The start of a stream. Until its first event the request can still fail with a status of
        its own, and a client that leaves pays nothing.
        """
        left = asyncio.create_task(until_disconnect(receive))
        opening = self._spawn(self._open())
        try:
            await asyncio.wait({left, opening}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                raise ClientLeft
            stream, headers = opening.result()
        except ApiError:
            left.cancel()
            raise
        except BaseException:
            has_left = left.done()
            left.cancel()
            # Only spawned, not awaited: this very task may be in the middle of being cancelled.
            self._spawn(self._drop(opening, left, has_left=has_left))
            raise
        return self._metered(stream, headers, left)

    def _metered(
        self, stream: EventStream, headers: Mapping[str, str], left: asyncio.Task[None]
    ) -> MeteredStream:
        return MeteredStream(
            stream,
            self._charge,
            self._chat,
            self._spawn,
            headers,
            left,
            finishes=self._finishes,
        )

    async def _answer(self) -> ASGIApp:
        charge, surface = self._charge, self._chat.surface
        try:
            target, opened = await self._ask()
            content = await target.upstream.read(opened)
            document = _object(content)
            usage = surface.usage(document)
            if not usage and not surface.is_answer(document):
                raise broken("it held nothing of what was asked for", target.upstream.name)
        except BaseException:
            await charge.release()
            raise
        charge.images = surface.images(document)
        if isinstance(tier := document.get("service_tier"), str):
            charge.service_tier = tier
        if not charge.tells_output(usage):
            charge.count(EventOutput(surface.output(document)))
        receipt = await charge.finish(usage)
        headers = self._answer_headers(opened, receipt)
        headers["X-Cost-Incurred"] = text_of_credits(charge.cost or 0)
        if receipt is None:
            headers["X-Charge-Pending"] = "true"
        return Answer(content, headers)

    async def _open(self) -> tuple[EventStream, dict[str, str]]:
        stream: EventStream | None = None
        try:
            target, opened = await self._ask()
            stream = EventStream(target.upstream, opened, self._chat.surface)
            await stream.first()
        except BaseException as error:
            if stream is not None:
                stream.close()
            if not isinstance(error, asyncio.CancelledError):
                await self._charge.release()
            raise  # Who cancels it, ends the hold.
        return stream, self._answer_headers(opened, None)

    async def _drop(
        self,
        opening: asyncio.Task[tuple[EventStream, dict[str, str]]],
        left: asyncio.Task[None],
        *,
        has_left: bool,
    ) -> None:
        """End a call whose stream nobody will read: when its answer has ended, if it was its caller
        who left and the operator wants that, or at once.
        """
        result: Any = None
        # What waits for a connection costs nothing yet, and is not begun for nobody.
        reads_on = has_left and self._finishes and self._charge.begun
        try:
            if reads_on:
                await asyncio.wait({opening})
            else:
                opening.cancel()
            [result] = await asyncio.gather(opening, return_exceptions=True)
            if reads_on and isinstance(result, tuple):
                stream, headers = result
                await self._metered(stream, headers, left).read_alone()
        finally:
            opening.cancel()
            if isinstance(result, tuple):
                result[0].close()
            await self._charge.break_off(by_caller=has_left)

    async def _ask(self) -> tuple[Target, Opened]:
        target, opened = await ask(
            self._targets, self._chat, self._headers, self._payer, self._charge.went_out
        )
        self._charge.target = target
        self._chat.forget_body()
        self._place.body_is_gone()
        return target, opened

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work of the application, for which the request keeps its place."""
        task = self._tracker.spawn(work)
        self._place.keep_for(task)
        return task

    def _answer_headers(self, opened: Opened, receipt: Receipt | None) -> dict[str, str]:
        charge = self._charge
        remaining = charge.remaining if receipt is None else receipt.available + receipt.held
        headers = {
            "X-Request-Id": charge.request_id,
            "X-Provider-Used": charge.target.upstream.name,
            "X-Credits-Remaining": text_of_credits(remaining),
            "Server-Timing": f"hold;dur={charge.hold_ms:.2f}",
        }
        for name, shown in _ANSWER_HEADERS.items():
            if (value := opened.response.headers.get(name)) is not None:
                headers[shown] = charge.target.upstream.hidden(value)
        return headers


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
