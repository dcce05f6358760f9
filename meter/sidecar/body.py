"""Reads the body of a request: of the right type, not too large, and there in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any, Final

from taximeter.meter.sidecar.answers import Refusal, http_refusal, invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Headers = Iterable[tuple[bytes, bytes]]

_ADDRESS: Final = re.compile(rb"[0-9.]+|\[[0-9A-Fa-f:.]+\]")

_HOST_KNOWN_MAX: Final = 64

BODY_BYTES_MAX: Final = 1_048_576
BODY_TIMEOUT_S: Final = 10.0
"""How long a body may take to arrive: a slow sender must not keep a task for ever."""


def check_headers(headers: Headers, bytes_max: int) -> None:
    """Raise Refusal for a body that is not JSON, or is announced as too large: before its sender is
    told to go on.

    A page in a browser cannot send JSON without asking first, so no web site can spend through a
    sidecar on its visitor's machine.
    """
    is_json = False
    for name, value in headers:
        if name == b"content-type":
            is_json = is_json or value[:16].lower() == b"application/json"
        elif name == b"content-length" and (len(value) > 18 or int(value) > bytes_max):
            raise _too_large(bytes_max)
    if is_json:
        return
    raise http_refusal("not_json")


def check_host(headers: Headers, port: int | None = None) -> None:
    """Where no key is asked for, a request must be for this machine by its name or address. A page
    of a web site whose name was made to point here sends that site's name. Raises Refusal (403).

    With a `port`, which is our own, only names with it are looked at: gateways that ask forward
    auth pass on the name that their caller used, and a browser that was led here names our port.
    """
    for name, value in headers:
        if name == b"host" and not (
            _is_ours_known(value, port) if len(value) <= _HOST_KNOWN_MAX else _is_ours(value, port)
        ):
            words = "Without keys, this sidecar is asked as localhost or by its address."
            raise http_refusal("permission_denied", {"field": "Host"}, words=words)


def _is_ours(value: bytes, port: int | None) -> bool:
    host, given = value, b"80"
    if value[-1:].isdigit() and b":" in value:
        host, _, given = value.rpartition(b":")
    if port is not None and given != b"%d" % port:
        return True
    return not (b"." in host and not host.endswith(b".localhost") and not _ADDRESS.fullmatch(host))


# Callers of a sidecar send one Host all the time, and looking at it is a tenth of our own work.
_is_ours_known: Final = lru_cache(256)(_is_ours)


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body. Raises Refusal when it is too large, or does not arrive in time or at all."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _long_body(body, receive, bytes_max)
        except TimeoutError:
            raise http_refusal("body_too_slow") from None
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


async def _long_body(start: bytes, receive: Receive, bytes_max: int) -> bytes:
    parts, size = [start], len(start)
    more = True
    while more and size <= bytes_max:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise invalid("body", "sent whole")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(bytes_max: int) -> Refusal:
    details = {"field": "body", "limit": f"at most {bytes_max} bytes"}
    return http_refusal("body_too_large", details, bytes_max=bytes_max)
