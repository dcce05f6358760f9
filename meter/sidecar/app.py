"""Routes requests by a dictionary, reads a body in one go and answers in two messages: the ASGI
application.

It is written for the request path: no framework, no middleware, nothing allocated that the answer
does not need. `docs/decisions/0010-the-sidecar-is-plain-asgi.md` has the measurements.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from taximeter.meter.client import Meter
from taximeter.meter.held_estimates import EstimatedHolds
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import reads as queries
from taximeter.meter.sidecar.answers import (
    ANOTHER_INSTALLATION,
    DRAINING,
    INTERNAL,
    Refusal,
    http_refusal,
    refusal_of,
)
from taximeter.meter.sidecar.batch import run_batch
from taximeter.meter.sidecar.body import (
    BODY_BYTES_MAX,
    Headers,
    Message,
    Receive,
    check_headers,
    check_host,
    read_body,
)
from taximeter.meter.sidecar.calls import Operations
from taximeter.meter.sidecar.exact_json import parse_object
from taximeter.meter.sidecar.forward_auth import (
    KEY,
    PREFIX,
    ForwardAuth,
    ForwardAuthPolicy,
    GateAnswer,
    read_headers,
)
from taximeter.meter.sidecar.grants import UNLIMITED, Grant, KeyRing
from taximeter.meter.sidecar.model_prices import Prices
from taximeter.meter.wire.errors import MeterError
from taximeter.meter.wire.http_refusals import REFUSED, HttpCause
from taximeter.meter.wire.refusals import RETRY_AFTER_S, Cause

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
logger = logging.getLogger("taximeter.sidecar")

Send = Callable[[Message], Awaitable[None]]
Status = Callable[[], Awaitable[tuple[int, bytes]]]
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Answers the state of the whole system: an HTTP status and JSON."""

OPERATION_ROUTES: Final = {
    f"/v1/{op}": op for op in ("reserve", "commit", "release", "charge", "touch")
}
BATCH: Final = "/v1/batch"
METRICS: Final = "/metrics"
STATUS: Final = "/api/v1/system/status"
OPEN_ROUTES: Final = ("/healthz", "/livez", "/readyz", STATUS, METRICS, "/openapi.json")
"""Routes that need no key: they say nothing about any account."""

ROUTES: Final[dict[str, str]] = {
    **dict.fromkeys(OPERATION_ROUTES, "POST"),
    BATCH: "POST",
    "/v1/balance": "GET",
    "/v1/operations": "GET",
    **dict.fromkeys(OPEN_ROUTES, "GET"),
}
"""Path -> the one method that it takes."""

_JSON: Final = (b"content-type", b"application/json")
_CLOSE: Final = (b"connection", b"close")


@cache
def openapi_document() -> bytes:
    """The OpenAPI document, as it is served."""
    return files("taximeter.meter.sidecar").joinpath("openapi.json").read_bytes()


class Sidecar:
    """The application. Whoever serves it owns the meter, and closes it after the server.

    `meter` may be set later, or again: without one, everything but health is refused with 503.
    """

    def __init__(
        self,
        meter: Meter | None,
        pricer: Pricer | None,
        keys: KeyRing | None,
        body_bytes_max: int,
        holds: EstimatedHolds | None = None,
        forward_auth: ForwardAuthPolicy | None = None,
        status: Status | None = None,
        price_alarm: Callable[[], str | None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._price_alarm = price_alarm
        prices = None if pricer is None else Prices(pricer, holds or EstimatedHolds())
        self._operations = Operations(meter, prices)
        self._forward_auth = ForwardAuth(self._operations, forward_auth or ForwardAuthPolicy())
        self._keys = keys
        self.body_bytes_max = body_bytes_max

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._operations.taking_nothing is DRAINING

    def drain(self) -> None:
        """From now on take no new credits, and ask every caller to connect elsewhere. Holds can
        still be ended.
        """
        self._operations.taking_nothing = DRAINING

    def stop_taking(self, stop: bool) -> None:
        """Take no credits, or take them again: this may be a copy of another installation. Holds
        can still be ended.
        """
        if not self.draining:
            self._operations.taking_nothing = ANOTHER_INSTALLATION if stop else None

    def attach(self, meter: Meter) -> None:
        """Use this meter."""
        self._operations.meter = meter

    @property
    def meter(self) -> Meter | None:
        """The meter that it uses now."""
        return self._operations.meter

    @property
    def refused_in_batches(self) -> Counter[Cause | HttpCause]:
        """Why operations of batches were refused, which were answered 200 as a whole. Why a request
        was, stands in its scope (REFUSED).
        """
        return self._operations.refused

    async def ready(self) -> None:
        """Return when Redis answers and some shard is open. Raises MeterError, Refusal."""
        await self._operations.connected().ready()

    def refuse(self, error: MeterError) -> None:
        """Say this while there is no meter."""
        self._operations.refusal = refusal_of(error)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request. Never raises for what a caller sent."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        status, extra, kind = 200, None, _JSON
        try:
            # No browser reaches a Unix socket, which has no port.
            if self._keys is None and (port := _own_port(scope)) is not None:
                is_gate = scope["path"].startswith(PREFIX)
                check_host(scope["headers"], port if is_gate else None)
            if scope["path"] == STATUS and scope["method"] == "GET":
                status, body = await self._system_status()
            elif scope["path"] == METRICS and scope["method"] == "GET" and self._metrics:
                wanted = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
                body, content_type = await self._metrics(wanted)
                kind = (b"content-type", content_type.encode())
            elif scope["path"].startswith(PREFIX):
                status, body, extra, cause = await self._ask_gate(scope)
                if cause is not None:
                    scope[REFUSED] = cause
            else:
                body = await self._answer(scope, receive)
        except MeterError as error:
            status, body, extra = _refused(scope, refusal_of(error))
        except Refusal as error:
            status, body, extra = _refused(scope, error)
        except Exception:
            # A defect of ours; the log has it, the caller learns nothing of the inside.
            logger.exception("a request failed")
            status, body, extra = _refused(scope, INTERNAL)
        headers = [kind, (b"content-length", b"%d" % len(body))]
        if extra:
            headers += extra
        if self._operations.taking_nothing is DRAINING and _CLOSE not in headers:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        path = scope["path"]
        method = ROUTES.get(path)
        if method is None:
            raise http_refusal("not_there")
        if scope["method"] != method:
            raise http_refusal("method_not_allowed", {"allow": method}, allow=method)
        operations = self._operations
        if path in OPEN_ROUTES:
            return await self._open_answer(path)
        grant = None if self._keys is None else await _grant(self._keys, scope["headers"])
        if method == "POST":
            check_headers(scope["headers"], self.body_bytes_max)
            fields = parse_object(await read_body(receive, self.body_bytes_max))
            if path != BATCH:
                return await operations.run(OPERATION_ROUTES[path], fields, grant)
            operations.connected()
            return await run_batch(operations, fields, grant)
        if path == "/v1/balance":
            return await queries.balance(operations.connected(), scope["query_string"], grant)
        return await queries.operation(operations.connected(), scope["query_string"], grant)

    async def _ask_gate(self, scope: MutableMapping[str, Any]) -> GateAnswer:
        """Forward auth. Its key has a header of its own: Authorization is the caller's there."""
        headers = read_headers(scope["headers"])
        key = f"Bearer {headers.pop(KEY, '')}".encode()
        grant = None
        if self._keys is not None:
            grant = await _grant(self._keys, [(b"authorization", key)])
        return await self._forward_auth.answer(scope["path"], scope["query_string"], headers, grant)

    async def _system_status(self) -> tuple[int, bytes]:
        """The state of every part that this process can see: without a database, its own alone."""
        if self._status is not None:
            return await self._status()
        await self.ready()
        return 200, b'{"status":"ok","service":"taximeter"}'

    async def _open_answer(self, path: str) -> bytes:
        if path == "/openapi.json":
            return openapi_document()
        if path == METRICS:
            raise http_refusal("not_there")
        if path == "/readyz":
            if self._operations.taking_nothing is not None:
                raise self._operations.taking_nothing
            meter = self._operations.connected()
            await meter.ready()
            missing = await meter.missing()
            alarm = None if self._price_alarm is None else self._price_alarm()
            if missing or alarm:
                found = {"status": "degraded", "missing": missing, "prices": alarm}
                return _encode({name: one for name, one in found.items() if one}).encode()
        return b'{"status":"ok"}'

    async def _other(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Lifespan, for servers that insist; and a no to websockets."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.drain()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})


def create_sidecar(
    meter: Meter | None,
    *,
    pricer: Pricer | None = None,
    keys: KeyRing | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    holds: EstimatedHolds | None = None,
    forward_auth: ForwardAuthPolicy | None = None,
    status: Status | None = None,
    price_alarm: Callable[[], str | None] | None = None,
    metrics: Metrics | None = None,
) -> Sidecar:
    """Make the application.

    Without `pricer`, amounts must be given and not a model. `holds` says how much of an estimate is
    held, which is all of it without. Without `keys`, anybody who can connect may spend: serve it on
    loopback or on a Unix socket then. Without `status`, the system's state is that of Redis.
    `price_alarm` says in a word what is wrong with the price list, its age say, for `/readyz`.
    `metrics` writes what `/metrics` answers, in a form that the Accept header asks for, and its
    content type; without it there is none.
    """
    return Sidecar(
        meter, pricer, keys, body_bytes_max, holds, forward_auth, status, price_alarm, metrics
    )


async def _grant(keys: KeyRing, headers: Headers) -> Grant | None:
    """What the caller's key allows; None for everything. Raises Refusal without a good key."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) == 1:
        grant = keys.known(given[0]) or await keys.find(given[0])
        if grant is not None:
            return None if grant is UNLIMITED else grant
    raise http_refusal("unauthorized")


def _own_port(scope: MutableMapping[str, Any]) -> int | None:
    """The TCP port that the request came to; none on a Unix socket."""
    server = scope.get("server") or (None, None)
    return server[1] if isinstance(server[1], int) else None


def _refused(
    scope: MutableMapping[str, Any], refusal: Refusal
) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    scope[REFUSED] = refusal.cause
    headers = []
    if refusal.retry:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif refusal.status == 405:
        headers.append((b"allow", str(refusal.details["allow"]).encode()))
    elif refusal.status in (408, 413):
        headers.append(_CLOSE)  # The rest of the body is not read.
    return refusal.status, refusal.body(), headers
