"""Serves the LLM route as a plain ASGI application: who calls, what they sent, and how a failure is
said.

It stands beside the framework that serves the admin API, since the framework's way from the socket
to a function and back costs more than everything that happens in that function here.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from taximeter.api.llm.body import ClientLeft, read_body
from taximeter.api.llm.callers import API_ROOT, CLIENTS_ROOT, caller_of, text_header
from taximeter.api.llm.complete import Incoming, complete
from taximeter.api.llm.failure_answers import failure_response
from taximeter.api.llm.payers import paying_org, refuse_empty_account
from taximeter.api.llm.place import Place
from taximeter.api.llm.services import LlmServices
from taximeter.api.openai.parse import SURFACES
from taximeter.api.openai.surfaces import Surface
from taximeter.api.running.dependencies import (
    refuse_repeated,
)
from taximeter.api.web import body_limit as middleware
from taximeter.api.web.body_limit import announced_bytes, body_too_large
from taximeter.api.web.error_handlers import refusal_of
from taximeter.api.web.errors import ApiError
from taximeter.meter.wire.http_refusals import REFUSED

SURFACE_OF = {
    f"{root}{surface.path}": surface for root in (API_ROOT, CLIENTS_ROOT) for surface in SURFACES
}

# Of a caller's headers, the ones that an upstream gets. All others end here: those of the
# connection, the session, and whatever an upstream would take for the operator's word.
_FORWARDED = {
    b"openai-beta": "OpenAI-Beta",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
    b"x-client-request-id": "X-Client-Request-Id",
}
LARGE_BYTES = 16_384
"""Before a larger body is read, it is asked whether anything is left: reading and checking one of
this size takes about as long as asking.
"""


class LlmEndpoint:
    """Answers POST on every path of SURFACE_OF. The services are looked up for each request, as
    they may be opened after this was made.
    """

    def __init__(self, state: State, bytes_max: int) -> None:
        self._state = state
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        places: list[Place] = []
        try:
            try:
                answer = await self._answer(scope, receive, places)
            except ClientLeft:
                return
            except Exception as error:
                refusal = refusal_of(error, scope["method"], scope["path"])
                scope[REFUSED] = refusal.cause
                answer = failure_response(refusal)
            await answer(scope, receive, send)
        finally:
            for place in places:
                place.leave()

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        places: list[Place],
    ) -> ASGIApp:
        """The answer, and in `places` what is to be left after it. Who calls, who pays and whether
        anything is left is known before the body is read, and its shape before it is parsed.
        """
        # Of those that count here and may stand twice, the first counts, as elsewhere in the API.
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        refuse_repeated(scope["headers"])
        if announced_bytes(headers) > self._bytes_max:
            # The rest of the body is still on its way, and is not read.
            large = body_too_large(self._bytes_max)
            large.headers["Connection"] = "close"
            raise large
        services: LlmServices = self._state.services
        settings = services.settings
        user_id, org_id, key_id = await caller_of(services, scope, headers)
        key = text_header(headers, b"idempotency-key", "Idempotency-Key")
        payer = await paying_org(services, user_id, org_id)
        account = (payer.org_id, user_id)
        if services.installation.stopped:
            raise ApiError.of("another_installation")
        services.store.check(payer.org_id)
        place = Place(services.requests.take(*account, 1), services.bodies.take(*account))
        places.append(place)
        if announced_bytes(headers) > LARGE_BYTES or b"content-length" not in headers:
            await refuse_empty_account(services, *account)
        try:
            async with asyncio.timeout(middleware.LLM_BODY_TIMEOUT_S):
                content = await read_body(
                    receive, self._bytes_max, settings.llm_body_values_max, place.body_grows
                )
        except TimeoutError:
            raise ApiError.of("body_too_slow", headers={"Connection": "close"}) from None
        forwarded = {
            name: headers[raw].decode("latin-1")
            for raw, name in _FORWARDED.items()
            if raw in headers
        }
        return await complete(
            services,
            Incoming(
                _surface(scope["path"]),
                user_id,
                payer,
                content,
                key,
                forwarded,
                receive,
                place,
                key_id,
            ),
        )


def _surface(path: str) -> Surface:
    """The route of a path, which may stand below the root of another application."""
    found = SURFACE_OF.get(path)
    return found or next(one for end, one in SURFACE_OF.items() if path.endswith(end))
