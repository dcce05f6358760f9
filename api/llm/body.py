"""Reads the body of a request and stops at its limits while it comes: what is refused is never
parsed, and what is parsed takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive

from taximeter.api.openai.checks import invalid
from taximeter.api.web.body_limit import body_too_large
from taximeter.api.web.json_shape import Shape, ShapeError


class ClientLeft(Exception):
    """The client is gone: there is nobody to answer."""


async def read_body(
    receive: Receive, bytes_max: int, values_max: int, grow: Callable[[int], None]
) -> bytes:
    """The whole body. `grow` is told of each part before it is kept, and may refuse it. Raises
    ApiError 413, 422 or what `grow` raises, ClientLeft.
    """
    parts: list[bytes] = []
    size = 0
    shape = Shape(values_max)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            # The connection stays open, and the server drops what still comes: if it were closed
            # now, the sender would see a broken connection and not this answer.
            raise body_too_large(bytes_max)
        grow(len(part))
        try:
            shape.feed(part)
        except ShapeError as error:
            raise invalid("body", str(error)) from None
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
