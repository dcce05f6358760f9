"""How far a write has to be before its caller is answered: local disk, replicas, or neither.

Redis answers as soon as a script is done. With a wait, the answer is kept back until WAITAOF or
WAIT says that this connection's writes are on disk or on replicas. A wait that fails does not undo
anything: the operation is repeated under its id, and when time is over its outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from hiredis import pack_command
from redis.exceptions import NoScriptError

from taximeter.meter.errors import StoreUnavailable
from taximeter.meter.scripts import load_script

Wait = Literal["none", "fsync", "replica", "replica-fsync"]
"""`fsync`: on this server's disk (WAITAOF 1 0). `replica`: in the memory of replicas (WAIT).
`replica-fsync`: on this server's disk and on that of replicas (WAITAOF 1 n).
"""

_BY_STRENGTH: Final[tuple[Wait, ...]] = ("none", "fsync", "replica", "replica-fsync")


class NotConfirmed(StoreUnavailable):
    """The writes were made, but did not get as far as asked in time."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What reserves wait for and what everything else waits for; a batch waits for the stronger."""

    reserve: Wait
    commit: Wait
    replicas: int
    timeout_s: float

    def of(self, operations: Iterable[str]) -> Wait:
        """The wait of a batch of these operations."""
        wanted = {self.reserve if op == "reserve" else self.commit for op in operations}
        return max(wanted, key=_BY_STRENGTH.index, default="none")


async def confirm(connection: Any, meta: str, wait: Wait, waits: Waits) -> None:
    """Return when everything written on this redis-py connection is as far as `wait` says.

    Raises NotConfirmed, and what redis-py raises (a server without AOF or older than 7.2 refuses
    WAITAOF).
    """
    barrier = load_script("barrier")
    timeout_ms = str(max(1, int(waits.timeout_s * 1000)))
    if wait == "replica":
        needed: tuple[int, ...] = (waits.replicas,)
        question: tuple[Any, ...] = ("WAIT", str(waits.replicas), timeout_ms)
    else:
        replicas = waits.replicas if wait == "replica-fsync" else 0
        needed = (1, replicas)
        question = ("WAITAOF", "1", str(replicas), timeout_ms)
    # WAIT looks at what this connection wrote. A repeated operation writes nothing, and would be
    # confirmed at once without a write of its own.
    known: tuple[Any, ...] = ("EVALSHA", barrier.sha, "1", meta)
    told: tuple[Any, ...] = ("EVAL", barrier.text, "1", meta)
    try:
        await _ask(connection, known, question)
    except NoScriptError:
        await connection.read_response(disable_decoding=True)
        await _ask(connection, told, question)
    answer = await connection.read_response(disable_decoding=True)
    reached = tuple(answer) if isinstance(answer, list) else (answer,)
    if any(have < need for have, need in zip(reached, needed, strict=True)):
        raise NotConfirmed(f"{' '.join(question)} answered {reached}: too few in time")


async def _ask(connection: Any, write: tuple[Any, ...], question: tuple[Any, ...]) -> None:
    """Send both in one go and read the reply to the write; that to the question comes next."""
    await connection.send_packed_command(
        pack_command(write) + pack_command(question), check_health=False
    )
    await connection.read_response(disable_decoding=True)
