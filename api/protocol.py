"""HTTP on the wire: parsed in C, with the bound on a head that the parser itself does not have."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 32_768
_REFUSAL = "The request's head is too long."


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers 400 when a head, a trailer or the frame of a chunk grows
    without an end.

    Two sums see to that: what the parser has reported of one request's head and trailers, and what
    it has taken in since it last reported anything, which is what it keeps. Both are bytes.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._reported = 0
        self._unreported = 0
        self._has_reported = False

    def data_received(self, data: bytes) -> None:
        self._has_reported = False
        super().data_received(data)
        if self._has_reported:
            self._unreported = 0
            return
        self._unreported += len(data)
        if self._unreported > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.logger.warning(_REFUSAL)
            self.send_400_response(_REFUSAL)

    def on_message_begin(self) -> None:
        self._reported = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._has_reported = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_reported = True
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._has_reported = True
        self._reported += size
        if self._reported > HEAD_BYTES_MAX:
            # The parser makes an error of its own of it, which uvicorn answers with 400.
            raise ValueError(_REFUSAL)
