"""Keeps what a request takes of the process: its share of requests and of bytes of bodies."""

from __future__ import annotations

import asyncio
from typing import Any

from taximeter.api.web.fair_shares import Share


class Place:
    """What a request takes of the process: room for itself, until all of its work has ended, and
    for its body, until that was sent.
    """

    __slots__ = ("_body", "_request", "_users")

    def __init__(self, request: Share, body: Share) -> None:
        self._request = request
        self._body = body
        self._users = 1

    def keep_for(self, task: asyncio.Task[Any]) -> None:
        """Keep the room also until this task has ended."""
        self._users += 1
        task.add_done_callback(lambda _: self.leave())

    def body_grows(self, size: int) -> None:
        """Take so much more room for the body. Raises ApiError 429."""
        self._body.take_more(size)

    def body_is_gone(self) -> None:
        """Give back the room for the body."""
        self._body.give_back()

    def leave(self) -> None:
        """One user less: the last one gives everything back."""
        self._users -= 1
        if not self._users:
            self._body.give_back()
            self._request.give_back()
