"""Asks Redis how far a write has come (WAIT, WAITAOF), on one connection, until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from taximeter.meter.wire.scripts import Script
from taximeter.meter.wire.waits import Goal

# A replica that is asked before its own sync says no, and unasked it answers once a second; so it
# is asked again, soon and then ever less often. The server looks at the time-out of a wait when
# something arrives, else ten times a second only: what is sent behind the wait makes it look.
_SERVER_TIMEOUT_MS: Final = "1"
_ASK_AGAIN_S: Final = 0.002
_ASK_AGAIN_MAX_S: Final = 0.05
_AT_ONCE_MAX: Final = 4
"""Answers after which the next question waits for its time: the replica may be away for long."""


class WaitPoll:
    """The question of one goal on one connection, of redis-py or a line, repeated until somebody
    stops it.

    All answers to it are read before the connection is used for anything else: see `finish`.
    """

    def __init__(self, connection: Any, goal: Goal) -> None:
        self._connection = connection
        question: tuple[Any, ...] = (goal.command, *map(str, goal.needed), _SERVER_TIMEOUT_MS)
        self._packed = pack_command(question)
        self._asks_for_disks = goal.command == "WAITAOF"
        self._asked = 0
        self._unanswered = 0
        self._stopped = False
        self._again = asyncio.Event()
        self._repeating: asyncio.Task[None] | None = None

    async def after(self, script: Script, keys: Sequence[str]) -> list[Any]:
        """Run a script that writes, once for each of these keys, and ask behind the last; returns
        what each says, an error reply as the exception. Raises what is about the connection.
        """
        # A server that syncs with every write answers when its disk has it; a question that came
        # with the write would reach it, and the replica, before they sync.
        asked = not self._asks_for_disks
        said = await self._run(("EVALSHA", script.sha), keys, asked=asked)
        if any(isinstance(one, NoScriptError) for one in said):
            if asked:
                # The answer behind it is about what was written before.
                await self._connection.read_response(disable_decoding=True)
                self._unanswered -= 1
            said = await self._run(("EVAL", script.text), keys, asked=False)
        return said

    async def _run(
        self, command: tuple[str, str], keys: Sequence[str], *, asked: bool
    ) -> list[Any]:
        calls: list[tuple[Any, ...]] = [(*command, "1", key) for key in keys]
        packed = [*map(pack_command, calls)]
        if asked:
            packed.append(self._packed)
            self._asked += 1
            self._unanswered += 1
        await self._connection.send_packed_command(packed, check_health=False)
        said: list[Any] = []
        for _ in keys:
            try:
                said.append(await self._connection.read_response(disable_decoding=True))
            except ResponseError as error:
                said.append(error)
        return said

    async def answer(self) -> tuple[int, ...]:
        """How far it is now, as the next answer says. Raises what redis-py raises."""
        if self._unanswered == 0 and self._asked < _AT_ONCE_MAX:
            await self._ask()
        if self._repeating is None:
            self._repeating = asyncio.create_task(self._repeat())
        while self._unanswered == 0:
            self._again.clear()
            await self._again.wait()
        found = await self._connection.read_response(disable_decoding=True)
        self._unanswered -= 1
        return tuple(found) if isinstance(found, list) else (found,)

    async def finish(self) -> None:
        """Stop asking and read what is still to come."""
        self._stopped = True
        while self._unanswered:
            await self._connection.read_response(disable_decoding=True)
            self._unanswered -= 1

    def stop(self) -> None:
        """Stop asking: the connection is given up."""
        self._stopped = True

    async def _ask(self) -> None:
        self._asked += 1
        self._unanswered += 1
        self._again.set()
        await self._connection.send_packed_command(self._packed, check_health=False)

    async def _repeat(self) -> None:
        # Never cancelled: redis-py would drop the connection. It ends by itself, in a moment.
        pause_s = _ASK_AGAIN_S
        while True:
            await asyncio.sleep(pause_s)
            if self._stopped:
                return
            pause_s = min(1.5 * pause_s, _ASK_AGAIN_MAX_S)
            try:
                await self._ask()
            except Exception:
                return  # Whoever reads the answers learns of it.
