"""The Valkey of a run: one whose clock can be moved, whose file can be cut or put back, and which
can be a replica.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from taximeter.api.embedded.valkey import EmbeddedValkey

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
FAKETIME: Path | None = _LIBRARIES[0] if _LIBRARIES else None
"""Debian's libfaketime, None when it is not installed: clocks are not moved then."""


def moved_by(clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is what that file says."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(clock: Path, ahead_s: float) -> None:
    """Write the file of a moved clock, in one step."""
    moved = clock.with_suffix(".new")
    moved.write_text(f"{ahead_s:+.3f}")
    moved.replace(clock)


class ChaosValkey(EmbeddedValkey):
    """`fsync` is appendfsync. With libfaketime, `set_clock` moves TIME of the running server; what
    the server measures pauses with stays true.
    """

    def __init__(self, data_dir: Path, fsync: str, extra_args: Sequence[str] = ()) -> None:
        super().__init__(data_dir, ("--appendfsync", fsync, *extra_args))
        self._clock = self.data_dir.with_name(f"{self.data_dir.name}.clock")

    def command(self) -> list[str]:
        command = super().command()
        if FAKETIME is None:
            return command
        if not self._clock.exists():
            self.set_clock(0.0)
        settings = {**moved_by(self._clock), "FAKETIME_NO_CACHE": "1"}
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()), *command]

    def set_clock(self, ahead_s: float) -> None:
        """Let TIME be so many seconds ahead of the machine's clock, at once."""
        set_clock(self._clock, ahead_s)

    def pause(self) -> None:
        subprocess.run(["kill", "-STOP", str(self.pid)], check=True)

    def resume(self) -> None:
        subprocess.run(["kill", "-CONT", str(self.pid)], check=True)

    @property
    def log_of_writes(self) -> Path:
        """The file that writes are appended to. Raises FileNotFoundError when there is none yet."""
        files = sorted((self.data_dir / "appendonlydir").glob("*.incr.aof"))
        if not files:
            raise FileNotFoundError(f"{self.data_dir} has no append-only file")
        return files[-1]

    def copy_data(self, to: Path) -> None:
        """Copy the append-only files as they are now, the server running: a prefix of its life."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.data_dir / "appendonlydir", to)

    def put_back(self, copy: Path) -> None:
        """Replace the append-only files by an older copy; the server must be down."""
        shutil.rmtree(self.data_dir / "appendonlydir", ignore_errors=True)
        if copy.exists():
            shutil.copytree(copy, self.data_dir / "appendonlydir")
