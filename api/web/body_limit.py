"""Limits the body of every request. Plain ASGI, since nothing here may buffer a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taximeter.api.web.errors import ApiError, error_content

BODY_TIMEOUT_S = 10.0
"""How long a body of the admin API may take to arrive."""
LLM_BODY_TIMEOUT_S = 60.0
"""The same on the LLM route, where bodies are a hundred times as large."""
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"connection", b"close"),  # The rest of the body is still on its way, and is not read.
]


class BodyLimit:
    """Refuses bodies over the limit with 413, by their announced length or while they come, and
    slow ones with 408.
    """

    def __init__(
        self, app: ASGIApp, *, bytes_max: int, llm_bytes_max: int, llm_suffixes: tuple[str, ...]
    ) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._llm_bytes_max = llm_bytes_max
        self._llm_suffixes = llm_suffixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_llm = scope["path"].endswith(self._llm_suffixes)
        limit = self._llm_bytes_max if is_llm else self._bytes_max
        if announced_bytes(dict(scope["headers"])) > limit:
            await refuse_body(send, limit)
            return
        received, is_whole = 0, False
        timeout_s = LLM_BODY_TIMEOUT_S if is_llm else BODY_TIMEOUT_S
        deadline = asyncio.get_running_loop().time() + timeout_s

        async def limited_receive() -> Message:
            nonlocal received, is_whole
            if is_whole:
                return await receive()  # Waits for the client to leave, which has no bound.
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = ApiError.of("body_too_slow")
                raise HTTPException(late.status, late.message, {"Connection": "close"}) from None
            if message["type"] == "http.request":
                is_whole = not message.get("more_body", False)
                received += len(message.get("body", b""))
                if received > limit:
                    # Of this kind, since FastAPI makes a 400 of any other that a body raises.
                    large = body_too_large(limit)
                    raise HTTPException(large.status, large.message)
            return message

        await self._app(scope, limited_receive, send)


def announced_bytes(headers: Mapping[bytes, bytes]) -> int:
    """The length of the body as its sender announces it; 0 if it does not."""
    announced = headers.get(b"content-length", b"0")
    return int(announced[:20]) if announced.isdigit() else 0


def body_too_large(limit: int) -> ApiError:
    """The refusal of a body that is over the limit."""
    return ApiError.of("body_too_large", details={"bytes_max": limit}, bytes_max=limit)


async def refuse_body(send: Send, limit: int) -> None:
    """Answer 413, and close the connection on what is still to come."""
    error = body_too_large(limit)
    body = json.dumps(error_content(error.code, error.message, error.details)).encode()
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
