"""The LLM route as a plain ASGI application: who calls, what they sent, and how a failure is said.

It stands beside the framework that serves the admin API, since the framework's way from the socket
to a function and back costs more than everything that happens in that function here.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from taximeter.api.access.key_text import PREFIX
from taximeter.api.llm.admission import paying_org, refuse_empty_account
from taximeter.api.llm.body import ClientLeft, read_body
from taximeter.api.llm.complete import Incoming, Place, complete
from taximeter.api.llm.failure_answers import failure_response
from taximeter.api.llm.key_callers import key_caller
from taximeter.api.llm.services import LlmServices
from taximeter.api.openai.parse import SURFACES
from taximeter.api.openai.surfaces import Surface
from taximeter.api.running.dependencies import (
    bearer_needed,
    bearer_token,
    cookie_token,
    refuse_repeated,
)
from taximeter.api.web import body_limit as middleware
from taximeter.api.web.body_limit import announced_bytes, body_limit_words
from taximeter.api.web.error_handlers import refusal_of
from taximeter.api.web.errors import ApiError, validation_refusal
from taximeter.api.web.json_numbers import ShortText

API_ROOT = "/api/v1/llm"
CLIENTS_ROOT = "/v1"
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
_TEXT: TypeAdapter[str] = TypeAdapter(ShortText)


class LlmEndpoint:
    """Answers POST on every path of SURFACE_OF. The services are looked up for each request, as
    they may be opened after this was made.
    """

    def __init__(self, state: State, bytes_max: int) -> None:
        self._state = state
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Of those that count here and may stand twice, the first counts, as elsewhere in the API.
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        async with AsyncExitStack() as stack:
            try:
                answer = await self._answer(scope, receive, headers, stack)
            except ClientLeft:
                return
            except Exception as error:
                answer = failure_response(refusal_of(error, scope["method"], scope["path"]))
            await answer(scope, receive, send)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: dict[bytes, bytes],
        stack: AsyncExitStack,
    ) -> ASGIApp:
        """The answer, whose place the stack gives back. Who calls, who pays and whether anything is
        left is known before the body is read, and its shape before it is parsed.
        """
        refuse_repeated(scope["headers"])
        if announced_bytes(headers) > self._bytes_max:
            # The rest of the body is still on its way, and is not read.
            words, details = body_limit_words(self._bytes_max), {"bytes_max": self._bytes_max}
            raise ApiError(413, words, details=details, headers={"Connection": "close"})
        services: LlmServices = self._state.services
        settings = services.settings
        org_header = _text(headers, b"x-org-id", "X-Org-Id")
        user_id, org_header = await _caller(services, scope, headers, org_header)
        key = _text(headers, b"idempotency-key", "Idempotency-Key")
        payer = await paying_org(services, user_id, org_header)
        account = (payer.org_id, user_id)
        services.store.check(payer.org_id)
        place = Place(services.requests.take(*account, 1), services.bodies.take(*account))
        stack.callback(place.leave)
        if announced_bytes(headers) > LARGE_BYTES or b"content-length" not in headers:
            await refuse_empty_account(services, *account)
        try:
            async with asyncio.timeout(middleware.LLM_BODY_TIMEOUT_S):
                content = await read_body(
                    receive, self._bytes_max, settings.llm_body_values_max, place.body_grows
                )
        except TimeoutError:
            words = middleware.BODY_TIMEOUT_WORDS
            raise ApiError(408, words, headers={"Connection": "close"}) from None
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
            ),
        )


async def get_caller(request: Request) -> tuple[str, str | None]:
    """The same caller for the reads beside the endpoint, counted as a read. Raises ApiError."""
    services: LlmServices = request.app.state.services
    refuse_repeated(request.scope["headers"])
    headers: dict[bytes, bytes] = dict(reversed(request.scope["headers"]))
    org_header = _text(headers, b"x-org-id", "X-Org-Id")
    user_id, org_id = await _caller(services, request.scope, headers, org_header)
    await services.limiter.admit("reads", user_id)
    return user_id, org_id


async def _caller(
    services: LlmServices, scope: Scope, headers: dict[bytes, bytes], org_header: str | None
) -> tuple[str, str | None]:
    """Who asks, and the organisation that is to pay if that is decided already: by the caller, or
    by the API key. The path for OpenAI's clients takes no cookie: no browser is meant to use it.
    """
    header = headers.get(b"authorization")
    token = bearer_token(None if header is None else header.decode("latin-1"))
    if token is None:
        if API_ROOT not in scope["path"]:
            raise bearer_needed()
        token = cookie_token(Request(scope))
    elif token.startswith(PREFIX):
        user_header = _text(headers, b"x-user-id", "X-User-Id")
        return await key_caller(services.keys, token, user_header, org_header)
    principal = await services.verifier.verify(token)
    return principal.user_id, org_header


def _surface(path: str) -> Surface:
    """The route of a path, which may stand below the root of another application."""
    found = SURFACE_OF.get(path)
    return found or next(one for end, one in SURFACE_OF.items() if path.endswith(end))


def _text(headers: dict[bytes, bytes], name: bytes, shown: str) -> str | None:
    raw = headers.get(name)
    if raw is None:
        return None
    try:
        return _TEXT.validate_python(raw.decode("latin-1"))
    except ValidationError as error:
        raise validation_refusal(
            [{**one, "loc": ("header", shown)} for one in error.errors()]
        ) from None
