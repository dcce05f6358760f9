"""Says what an answer waits for beyond Redis itself: local disk, replicas, or neither.

Redis answers as soon as a script is done. With a wait, the answer is kept back until WAITAOF or
WAIT says that the write is on disk or on replicas. A wait that fails does not undo anything: the
operation was done, and is told as NotConfirmed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Wait = Literal["none", "fsync", "replica", "replica-fsync"]
"""`fsync`: on this server's disk (WAITAOF 1 0). `replica`: in the memory of replicas (WAIT).
`replica-fsync`: on this server's disk and on that of replicas (WAITAOF 1 n).
"""


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
        """Whether as many disks and replicas have the write as are asked for."""
        return all(have >= need for have, need in zip(reached, self.needed, strict=True))

    def missing(self, reached: tuple[int, ...]) -> str:
        """In words, for logs, answers and readiness."""
        if self.command == "WAIT":
            return f"{reached[0]} of {self.needed[0]} replicas have the write"
        parts = [] if reached[0] >= self.needed[0] else ["it is not on the server's disk yet"]
        if reached[1] < self.needed[1]:
            parts.append(f"{reached[1]} of {self.needed[1]} replicas have it on disk")
        return ", ".join(parts)
