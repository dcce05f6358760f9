"""Settlers as processes of their own that a test may freeze, thaw, kill, or give a wrong clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from support.forked import Forked

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
FAKETIME: Path | None = _LIBRARIES[0] if _LIBRARIES else None
"""Debian's libfaketime, None when it is not installed."""


class SettlerProcess:
    """`taximeter settler`. With a `clock` file its wall clock is as far off as that says."""

    def __init__(self, env: dict[str, str], log: Path, clock: Path | None = None) -> None:
        self.log = log
        self._clock = clock
        faked = {}
        if clock is not None:
            assert FAKETIME is not None
            faked = {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.process: Forked | subprocess.Popen[bytes]
        if not faked:
            log.touch()
            self.process = Forked(["settler"], environment={**os.environ, **env}, output=log)
            return
        # What a process loads before anything else cannot be given to one that is there already.
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taximeter.api", "settler"],
                env={**os.environ, **env, **faked},
                stdout=output,
                stderr=output,
            )

    def freeze(self) -> None:
        """Stop it where it is, as a stuck machine does."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def set_clock(self, ahead_s: float) -> None:
        """Let its wall clock be so many seconds ahead of the machine's, at once."""
        assert self._clock is not None
        set_clock(self._clock, ahead_s)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it has logged of this kind."""
        found = []
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        if self.is_alive():
            self.process.kill()
        self.process.wait()


def set_clock(clock: Path, ahead_s: float) -> None:
    """Write a clock file in one step."""
    moved = clock.with_suffix(".new")
    moved.write_text(f"{ahead_s:+.3f}")
    moved.replace(clock)


@contextmanager
def settler_process(
    env: dict[str, str], log: Path, clock: Path | None = None
) -> Iterator[SettlerProcess]:
    """Started, and killed at the end if it is still there."""
    process = SettlerProcess(env, log, clock)
    try:
        yield process
    finally:
        process.kill()


async def beats(pool: asyncpg.Pool[asyncpg.Record], process: SettlerProcess) -> dict[str, int]:
    """How often each loop of a settler has beaten; nothing when nobody misses it."""
    rows = await pool.fetch(
        "SELECT loop, beats FROM taximeter.heartbeats WHERE settler LIKE '%-' || $1::text || '-%'",
        str(process.process.pid),
    )
    return {row["loop"]: row["beats"] for row in rows}
