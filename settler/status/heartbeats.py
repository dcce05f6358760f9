"""Judges from their heartbeats how the settlers are. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SILENT_S: Final = 2.5
"""A settler that has not beaten for this long has stopped: it beats ten times a second."""
IDLE_S: Final = 15.0
"""A loop that has begun, gone on with or ended nothing for this long is stuck, in that settler."""
LATE_ROUNDS: Final = 3.0
CLOCK_ALARM_S: Final = 5.0
"""A wall clock further than this from that of a store is an alarm."""
IN_TIME: Final = ("guard", "settle", "relay", "sweep", "moves")
"""Loops that must not be late: without one of them no settler works."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A row of the heartbeats: seconds since the process has beaten and the loop has worked."""

    settler: str
    loop: str
    silent_s: float
    idle_s: float
    every_s: float
    trouble: str | None
    clock_off_s: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Beat:
        """From a row of the query."""
        return cls(**row)

    @property
    def is_stuck(self) -> bool:
        """Whether the loop shows no sign of life, in a process that does."""
        return self.idle_s > max(IDLE_S, LATE_ROUNDS * self.every_s)


@dataclass(frozen=True, slots=True)
class Liveness:
    """How the settlers are: `reason` is a word for the worst thing, None when all is well, and
    `works` says whether the work is done by anybody.
    """

    works: bool
    reason: str | None
    alive: int
    stopped: int


def judge_heartbeats(beats: Iterable[Beat]) -> Liveness:
    """All of them together: what one does not do is no trouble while another one does it."""
    living: dict[str, list[Beat]] = {}
    stopped: set[str] = set()
    for beat in beats:
        if beat.silent_s > SILENT_S:
            stopped.add(beat.settler)
        else:
            living.setdefault(beat.loop, []).append(beat)
    alive = {beat.settler for of_loop in living.values() for beat in of_loop}
    counts = len(alive), len(stopped - alive)
    if not alive:
        return Liveness(False, "stopped" if stopped else "none", *counts)
    for name in IN_TIME:
        of_loop = living.get(name, [])
        if all(beat.is_stuck for beat in of_loop):
            return Liveness(False, f"stuck:{name}", *counts)
        if all(beat.trouble for beat in of_loop):
            return Liveness(False, f"failing:{name}", *counts)
    if any(abs(beat.clock_off_s) > CLOCK_ALARM_S for one in living.values() for beat in one):
        return Liveness(True, "clock_off", *counts)
    for name, of_loop in living.items():
        if all(beat.is_stuck for beat in of_loop):
            return Liveness(True, f"late:{name}", *counts)
        if all(beat.trouble for beat in of_loop):
            return Liveness(True, f"failing:{name}", *counts)
    if stopped - alive:
        return Liveness(True, "one_stopped", *counts)
    return Liveness(True, None, *counts)
