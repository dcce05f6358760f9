"""Calls upstream for one hold: relays what comes, and charges what was used."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.types import ASGIApp, Receive

from taximeter.api.llm.asgi_answer import Answer
from taximeter.api.llm.body import ClientLeft
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.place import Place
from taximeter.api.llm.services import LlmServices
from taximeter.api.llm.streaming import MeteredStream
from taximeter.api.openai.json_members import object_of
from taximeter.api.openai.output import EventOutput
from taximeter.api.openai.request import LlmRequest
from taximeter.api.upstreams.asking import ask
from taximeter.api.upstreams.event_stream import EventStream
from taximeter.api.upstreams.failures import broken
from taximeter.api.upstreams.router import Target
from taximeter.api.upstreams.upstream import Opened
from taximeter.api.web.errors import ApiError
from taximeter.meter import Receipt
from taximeter.meter.wire.credits import text_of_credits

T = TypeVar("T")

# Of an upstream's headers, the ones that help its users: no others reach a caller.
_ANSWER_HEADERS = {
    "x-request-id": "X-Upstream-Request-Id",
    "openai-processing-ms": "OpenAI-Processing-Ms",
    "content-type": "Content-Type",
}


class UpstreamCall:
    """The call upstream for one hold. It runs as a task of the application: if the server gives the
    request up, the call still ends, and is charged.
    """

    def __init__(
        self,
        services: LlmServices,
        payer: tuple[str, str],
        place: Place,
        chat: LlmRequest,
        charge: OpenCharge,
        targets: tuple[Target, ...],
        headers: Mapping[str, str],
    ) -> None:
        self._tracker = services.tracker
        self._finishes = services.settings.left_streams == "finish"
        self._payer = payer
        self._place = place
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
        left = asyncio.create_task(_until_disconnect(receive))
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
            document = object_of(content)
            usage = surface.usage(document)
            if not usage and not surface.is_answer(document):
                raise broken("it held nothing of what was asked for", target.upstream.name)
        except BaseException as error:
            await charge.release(error)
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
            if self._charge.span is not None:
                self._charge.span.first_event()
        except BaseException as error:
            if stream is not None:
                stream.close()
            if not isinstance(error, asyncio.CancelledError):
                await self._charge.release(error)
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
        if self._charge.span is not None:
            self._charge.span.answered(target)
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
        headers = {
            "X-Request-Id": charge.request_id,
            "X-Provider-Used": charge.target.upstream.name,
            "X-Credits-Remaining": text_of_credits(charge.remaining(receipt)),
            "Server-Timing": f"hold;dur={charge.hold_ms:.2f}",
        }
        for name, shown in _ANSWER_HEADERS.items():
            if (value := opened.response.headers.get(name)) is not None:
                headers[shown] = charge.target.upstream.hidden(value)
        return headers


async def _until_disconnect(receive: Receive) -> None:
    """Return when the client is gone, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
