"""Gives each request of the admin API an id, the caller's or a new one, which the answer and the
audit log say; and tells browsers what every answer tells them.
"""

from __future__ import annotations

import os
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taximeter.api.web.current_request import CURRENT_ID

_SHAPE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
# An answer is somebody's money, or a key that is shown once: no cache keeps it.
_OF_ANSWERS = (*_ALWAYS, (b"cache-control", b"no-store"))
# The page holds a script in itself, and asks this server alone.
_OF_PAGES = (
    *_ALWAYS,
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
        b" img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        b" frame-ancestors 'none'",
    ),
)
_PAGES = ("/docs", "/openapi.json")


def _for_browsers(path: str) -> tuple[tuple[bytes, bytes], ...]:
    return _OF_PAGES if path.startswith(_PAGES) else _OF_ANSWERS


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
                said = {name.lower() for name, _ in headers}
                if b"x-request-id" not in said:
                    headers.append((b"x-request-id", raw))
                headers += [one for one in _for_browsers(scope["path"]) if one[0] not in said]
                message = {**message, "headers": headers}
            await send(message)

        token = CURRENT_ID.set(raw.decode())
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            CURRENT_ID.reset(token)
