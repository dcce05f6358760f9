"""Answers refusals late and reads large bodies by turns: a flood is as fast as its connections are
many, and not as fast as it is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Send

LATE_S: Final = 1.0
A_SECOND: Final = 200
"""So many late answers leave in a second at most; more who wait, wait longer."""
WAITING_MAX: Final = 2_000
"""Most answers that wait. Of more, the connections are closed at once."""
LARGE_BYTES: Final = 16_384
"""Longer bodies are large: they take turns, and are not read of callers who owe."""
TURNS: Final = 16
"""Most large bodies of one caller that are read at a time."""
TURN_WITHIN_S: Final = 30.0
_CLOSE: Final = (b"connection", b"close")


class LateAnswers:
    """Keeps refusals for a while. What they were made of is not kept: the application has ended."""

    def __init__(self) -> None:
        self._waiting = 0

    async def send(self, answer: list[Message], send: Send, owed_s: float = 0.0) -> None:
        """Send an answer after a second or more, by how many wait and what its caller owes. The
        end of the process sends it at once.
        """
        if self._waiting >= WAITING_MAX:
            headers = list(answer[0].get("headers", ()))
            answer[0]["headers"] = headers if _CLOSE in headers else [*headers, _CLOSE]
        else:
            self._waiting += 1
            try:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(max(LATE_S, self._waiting / A_SECOND, owed_s))
            finally:
                self._waiting -= 1
        for message in answer:
            await send(message)


class BodyTurns:
    """Who reads large bodies: of one caller TURNS at a time, the others in their order."""

    def __init__(self) -> None:
        self._reading: Counter[str | int] = Counter()
        self._waiting: dict[str | int, deque[asyncio.Future[None]]] = {}

    async def take(self, who: str | int) -> Turn | None:
        """A turn, as soon as there is one; None when that takes too long."""
        if self._reading[who] < TURNS:
            self._reading[who] += 1
            return Turn(self, who)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(who, deque())
        waiting.append(mine)
        try:
            async with asyncio.timeout(TURN_WITHIN_S):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():
                self.end(who)
            elif mine in waiting:
                waiting.remove(mine)
            if isinstance(error, TimeoutError):
                return None
            raise
        return Turn(self, who)

    def end(self, who: str | int) -> None:
        """Pass a turn on."""
        waiting = self._waiting.get(who, ())
        while waiting:
            following = waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        self._waiting.pop(who, None)
        self._reading[who] -= 1
        if self._reading[who] <= 0:
            del self._reading[who]


class Turn:
    """Room to read one large body."""

    def __init__(self, turns: BodyTurns, who: str | int) -> None:
        self._turns: BodyTurns | None = turns
        self._who = who

    def until_read(self, receive: Receive) -> Receive:
        """The same body, whose end is the end of the turn."""

        async def receiving() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                self.end()
            return message

        return receiving

    def end(self) -> None:
        """End it; again does nothing."""
        if self._turns is not None:
            self._turns.end(self._who)
            self._turns = None
