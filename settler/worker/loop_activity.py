"""Remembers what the loops of this process have last done, for the heartbeats that others see."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

TROUBLE_MAX: Final = 60


@dataclass(slots=True)
class Sign:
    """A loop's last sign of life, by the monotonic clock, and what pieces of its work failed with
    when they were last tried.
    """

    every_s: float
    at: float
    troubles: dict[str, str] = field(default_factory=dict)
    done: int = 0
    failed: int = 0


class LoopActivity:
    """Written by the loops, read by the heart. Nothing here waits or fails."""

    def __init__(self) -> None:
        self._signs: dict[str, Sign] = {}

    def expect(self, name: str, every_s: float) -> None:
        """There is a loop of this name, which begins a round about every so many seconds."""
        self._signs[name] = Sign(every_s, time.monotonic())

    def beat(self, name: str) -> None:
        """The loop has begun, gone on with or ended a round."""
        if name in self._signs:
            self._signs[name].at = time.monotonic()

    def is_well(self, name: str, piece: str) -> None:
        """This piece of the loop's work was done as it should."""
        if name in self._signs:
            self._signs[name].at = time.monotonic()
            self._signs[name].troubles.pop(piece, None)
            self._signs[name].done += 1

    def fails(self, name: str, piece: str, error: BaseException) -> None:
        """The loop goes on, and could not do this piece of its work."""
        if name in self._signs:
            self._signs[name].at = time.monotonic()
            self._signs[name].troubles[piece] = type(error).__name__[:TROUBLE_MAX]
            self._signs[name].failed += 1

    def counts(self) -> Iterable[tuple[str, float, int, int]]:
        """(name, seconds between rounds, pieces of work that were done, that failed) of every
        loop.
        """
        for name, sign in self._signs.items():
            yield name, sign.every_s, sign.done, sign.failed

    def signs(self) -> Iterable[tuple[str, float, float, str | None]]:
        """(name, seconds since the last sign, seconds between rounds, trouble) of every loop."""
        now = time.monotonic()
        for name, sign in self._signs.items():
            yield name, now - sign.at, sign.every_s, next(iter(sign.troubles.values()), None)
