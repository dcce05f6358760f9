"""Sends an answer as the ASGI messages that it becomes, without the layers of a framework around
it.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send


class Answer:
    """One whole answer with status 200."""

    __slots__ = ("_content", "_headers")

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        self._content = content
        self._headers = raw_headers(headers)
        self._headers.append((b"content-length", b"%d" % len(content)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._content})


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them: in bytes, with names in lower case."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
    ]
