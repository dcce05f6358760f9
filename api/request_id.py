"""An id for each request of the admin API: the caller's or a new one, said in the answer, and
written into the audit log by whatever the request changes.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SHAPE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str | None] = ContextVar("taximeter_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being answered; None outside of one."""
    return _current.get()


class RequestId:
    """Plain ASGI, since nothing here may buffer a stream. An id of another shape is replaced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        raw = given if _SHAPE.fullmatch(given) else b"req-" + os.urandom(16).hex().encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if all(name.lower() != b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", raw))
                message = {**message, "headers": headers}
            await send(message)

        token = _current.set(raw.decode())
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _current.reset(token)
