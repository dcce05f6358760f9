"""Stands around every request of the API and of the sidecar: says no to strangers who ask too
often, writes a line in the log, and answers where the end of the process cuts a request off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Container
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taximeter.api.settings.metering import LogRequests
from taximeter.api.web.errors import ApiError, cause_of_status, error_content
from taximeter.api.web.late_refusals import LARGE_BYTES, BodyTurns, LateAnswers
from taximeter.api.web.request_times import OTHER, RequestTimes
from taximeter.api.web.strangers import (
    NOTED_AS,
    SENSELESS,
    Strangers,
    body_bytes_of,
    credentials_of,
)
from taximeter.meter.wire.http_refusals import REFUSED, HttpCause
from taximeter.meter.wire.refusals import RETRY_AFTER_S

KEY_PREFIX: Final = b"Bearer tm_"
LATE_MAX_S: Final = 30.0
"""Longest time that an answer is kept for what its caller owes."""
QUIET: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Asked all the time by machines: logged only when refused."""

_PROBED: Final = QUIET | {"/api/v1/system/status"}
"""Whose 503 is news, and refuses nobody anything."""

log = logging.getLogger("taximeter.requests")


class Outermost:
    """Plain ASGI. `requests` says which are logged: all, those that were refused, or none.

    A request that is cancelled before its answer has begun, which only the end of the process does,
    is answered 503 and not left to the server's last resort: with the id of the request,
    Retry-After and a connection that ends.

    An address that has used up what `strangers` grants it is answered 429 before anything else is
    looked at; who has credentials that were accepted lately goes on. Whoever has used up what is
    granted to senseless requests is refused late, and has large bodies refused unread; what makes
    sense is answered as ever. `user_header` tells the users of one key apart.

    `times` has every request: by the pattern of its path, or its path where that is one of
    `routes`. `refusals` counts those that were refused: by surface, which `surface_of` tells by the
    path, and why.
    """

    def __init__(
        self,
        app: ASGIApp,
        requests: LogRequests = "all",
        strangers_per_minute: int = 0,
        user_header: bytes | None = None,
        routes: Container[str] = (),
        surface_of: Callable[[str], str] = lambda path: "sidecar",
    ) -> None:
        self._app = app
        self._surface_of = surface_of
        self.refusals: Counter[tuple[str, str]] = Counter()
        self._routes = routes
        self.times = RequestTimes()
        self._strangers = Strangers(strangers_per_minute)
        self._late, self._turns = LateAnswers(), BodyTurns()
        self._user_header = user_header
        self._counts = strangers_per_minute > 0
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
        strangers, path = self._strangers, scope["path"]
        peer = "" if path in QUIET else (scope.get("client") or ("",))[0]
        credentials = credentials_of(path, scope["headers"], self._user_header)
        wait_s = strangers.wait_s(peer, credentials)
        body_bytes = body_bytes_of(scope["headers"])
        is_large = self._counts and peer and not 0 <= body_bytes <= LARGE_BYTES
        status = 0
        request_id = b""
        late: list[Message] = []

        async def noting_send(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                if not wait_s:
                    noted = scope.get(NOTED_AS, status)
                    strangers.note(peer, credentials, noted, body_bytes)
                if self._any and (self._all or status >= 400):  # For the log alone.
                    for name, value in message.get("headers", ()):
                        if name.lower() == b"x-request-id":
                            request_id = value
                if (
                    wait_s
                    or (status in SENSELESS and strangers.owes_s(peer, credentials))
                    or (status == 503 and strangers.suspects(peer, credentials))
                ):
                    late.append(message)
                    return
            if late:
                late.append(message)  # All refusals are short.
            else:
                await send(message)

        turn = None
        try:
            if is_large and not wait_s:
                turn = await self._turns.take(strangers.who(peer, credentials))
                wait_s = strangers.owes_s(peer, credentials) or (0.0 if turn else 1.0)
                too_often: HttpCause = "senseless_requests"
            else:
                too_often = "requests_without_credentials"
            if wait_s:
                await _answer(scope, noting_send, too_often, math.ceil(wait_s))
            else:
                await self._app(scope, turn.until_read(receive) if turn else receive, noting_send)
            if late:
                if turn is not None:
                    turn.end()
                owed_s = strangers.owes_s(peer, credentials)
                await self._late.send(late, send, min(owed_s, LATE_MAX_S))
        except asyncio.CancelledError:
            if status:
                raise
            await _answer(scope, noting_send, "shutting_down", RETRY_AFTER_S)
        finally:
            if turn is not None:
                turn.end()
            seconds = time.perf_counter() - started
            route = route_of(scope, self._routes) or OTHER
            self.times.note(scope["method"], route, status, seconds)
            if status >= 400 and path not in _PROBED:
                why = scope.get(REFUSED) or cause_of_status(status)
                self.refusals[self._surface_of(path), why] += 1
            is_meant = status >= 400 or (self._all and scope["path"] not in QUIET)
            if self._any and is_meant and log.isEnabledFor(logging.INFO):
                said = {
                    "method": scope["method"],
                    "route": _route(scope),
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "caller": _caller_kind(scope),
                    "request_id": request_id.decode("latin-1") or None,
                }
                log.info("request", extra=said)


def route_of(scope: Scope, routes: Container[str]) -> str | None:
    """The pattern of the path of a request that was handled, or its path where that is one of
    `routes`; None for a path that is none of ours.
    """
    found: str | None = getattr(scope.get("route"), "path", None)
    if found is not None:
        return found
    path: str = scope["path"]
    return path if path in routes else None


async def _answer(scope: Scope, send: Send, cause: HttpCause, retry_s: int) -> None:
    scope[REFUSED] = cause
    error = ApiError.of(cause, details={"limit": cause} if cause != "shutting_down" else None)
    body = json.dumps(error_content(error.code, error.message, error.details)).encode()
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    is_id = 0 < len(given) <= 128 and given.isascii() and given.decode("ascii").isprintable()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", given if is_id else b"req-" + os.urandom(16).hex().encode()),
        (b"retry-after", b"%d" % retry_s),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The pattern of the path, where there is one: no names of organisations and users."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None) or scope["path"]
    return str(path)[:200]


def _caller_kind(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return "key" if value.startswith(KEY_PREFIX) else "session"
        if name == b"cookie" and (b"session_token=" in value or b"taximeter_session=" in value):
            return "session"
    return "none"
