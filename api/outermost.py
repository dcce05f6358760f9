"""What stands around every request of the API and of the sidecar: a line in the log, and an answer
where the end of the process cuts it off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from typing import Any, Final, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LogRequests = Literal["all", "refused", "none"]

KEY_PREFIX: Final = b"Bearer tm_"
_STOPPING: Final = {
    "error": {
        "code": "SHUTTING_DOWN",
        "message": "This process is stopping; nothing is known of the outcome, ask again with the"
        " same id",
        "details": {"reason": "shutting_down"},
    },
    "detail": "This process is stopping",
}
_BODY: Final = json.dumps(_STOPPING).encode()
_QUIET: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Asked all the time by machines: logged only when refused."""

log = logging.getLogger("taximeter.requests")


class Outermost:
    """Plain ASGI. `requests` says which are logged: all, those that were refused, or none.

    A request that is cancelled before its answer has begun, which only the end of the process does,
    is answered 503 and not left to the server's last resort: with the id of the request,
    Retry-After and a connection that ends.
    """

    def __init__(self, app: ASGIApp, requests: LogRequests = "all") -> None:
        self._app = app
        self.body_bytes_max: int | None = getattr(app, "body_bytes_max", None)
        self.log(requests)

    def log(self, requests: LogRequests) -> None:
        """Log these from now on."""
        self._all = requests == "all"
        self._any = requests != "none"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        request_id = b""

        async def noting_send(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message.get("headers", ()):
                    if name.lower() == b"x-request-id":
                        request_id = value
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:
            if status:
                raise
            await _answer_cut_off(scope, noting_send)
        finally:
            is_meant = status >= 400 or (self._all and scope["path"] not in _QUIET)
            if self._any and is_meant and log.isEnabledFor(logging.INFO):
                said = {
                    "method": scope["method"],
                    "route": _route(scope),
                    "status": status,
                    "ms": round((time.perf_counter() - started) * 1000, 1),
                    "caller": _caller_kind(scope),
                    "request_id": request_id.decode("latin-1") or None,
                }
                log.info("request", extra=said)


async def _answer_cut_off(scope: Scope, send: Send) -> None:
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    is_id = 0 < len(given) <= 128 and given.isascii() and given.decode("ascii").isprintable()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(_BODY)),
        (b"x-request-id", given if is_id else b"req-" + os.urandom(16).hex().encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def _route(scope: Scope) -> str:
    """The pattern of the path, where there is one: no names of organisations and users."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None) or scope["path"]
    return str(path)[:200]


def _caller_kind(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return "key" if value.startswith(KEY_PREFIX) else "session"
        if name == b"cookie" and b"session_token=" in value:
            return "session"
    return "none"
