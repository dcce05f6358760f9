"""How far a write has to be before its caller is answered: local disk, replicas, or neither.

Redis answers as soon as a script is done. With a wait, the answer is kept back until WAITAOF or
WAIT says that the write is on disk or on replicas. A wait that fails does not undo anything: the
operation was done, and is told as NotConfirmed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal

from hiredis import pack_command
from redis.exceptions import NoScriptError

from taximeter.meter.wire.scripts import Script, call_script

Wait = Literal["none", "fsync", "replica", "replica-fsync"]
"""`fsync`: on this server's disk (WAITAOF 1 0). `replica`: in the memory of replicas (WAIT).
`replica-fsync`: on this server's disk and on that of replicas (WAITAOF 1 n).
"""

# A replica that is asked in the same moment in which it gets a write answers before its own sync,
# and unasked it answers once a second; so it is asked again, soon and then ever less often. The
# server looks at the time-out of a wait when something arrives, else ten times a second only: what
# is sent behind the wait makes it look.
_SERVER_TIMEOUT_MS: Final = "1"
_ASK_AGAIN_S: Final = 0.002
_ASK_AGAIN_MAX_S: Final = 0.05
_AT_ONCE_MAX: Final = 4
"""Answers after which the next question waits for its time: the replica may be away for long."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What reserves wait for, and what everything else waits for."""

    reserve: Wait
    commit: Wait
    replicas: int
    timeout_s: float

    def of(self, op: str) -> Wait:
        """The wait of one operation."""
        return self.reserve if op == "reserve" else self.commit

    def goal(self, wait: Wait) -> Goal:
        """What Redis is asked for a wait other than `none`."""
        if wait == "replica":
            return Goal("WAIT", (self.replicas,))
        return Goal("WAITAOF", (1, self.replicas if wait == "replica-fsync" else 0))


@dataclass(frozen=True, slots=True)
class Goal:
    """How many of whom have to have a write: replicas for WAIT; this server's disk, and replicas'
    disks, for WAITAOF.
    """

    command: Literal["WAIT", "WAITAOF"]
    needed: tuple[int, ...]

    def is_met(self, reached: tuple[int, ...]) -> bool:
        return all(have >= need for have, need in zip(reached, self.needed, strict=True))

    def missing(self, reached: tuple[int, ...]) -> str:
        """In words, for logs, answers and readiness."""
        if self.command == "WAIT":
            return f"{reached[0]} of {self.needed[0]} replicas have the write"
        parts = [] if reached[0] >= self.needed[0] else ["it is not on the server's disk yet"]
        if reached[1] < self.needed[1]:
            parts.append(f"{reached[1]} of {self.needed[1]} replicas have it on disk")
        return ", ".join(parts)


class Asking:
    """The question of one goal on one redis-py connection, repeated until somebody stops it.

    All answers to it are read before the connection is used for anything else: see `finish`.
    """

    def __init__(self, connection: Any, goal: Goal) -> None:
        self._connection = connection
        question: tuple[Any, ...] = (goal.command, *map(str, goal.needed), _SERVER_TIMEOUT_MS)
        self._packed = pack_command(question)
        self._asked = 0
        self._unanswered = 0
        self._stopped = False
        self._again = asyncio.Event()
        self._repeating: asyncio.Task[None] | None = None

    async def after(self, script: Script, arguments: list[Any]) -> Any:
        """Run a script that writes, with the first question behind it in one packet; returns what
        the script says. Raises what redis-py raises.
        """
        packed = pack_command(("EVALSHA", script.sha, *arguments)) + self._packed
        self._asked += 1
        self._unanswered += 1
        await self._connection.send_packed_command(packed, check_health=False)
        try:
            return await self._connection.read_response(disable_decoding=True)
        except NoScriptError:
            # The answer behind it is about what was written before.
            await self._connection.read_response(disable_decoding=True)
            self._unanswered -= 1
            return await call_script(self._connection, script, arguments)

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
