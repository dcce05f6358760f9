"""Starts one of our own processes as a child, watches and stops it, and leaves none behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

from taximeter.api.embedded.spawn import Child, spawn

LOG_TAIL_LINES = 30


class ProcessFailed(RuntimeError):
    """A process ended or did not answer; the message says where its log is."""


class LocalProcess:
    """`taximeter <arguments>` with its settings in the environment and its output in a log file.

    The kernel ends it when this process dies, however that happens: it then finishes what it does,
    as after SIGTERM.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._arguments = list(arguments)
        self._environment = dict(environment)
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        if self._child is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._child.pid

    def start(self) -> None:
        """Start it; whether it works is for `check_alive` and whoever asks it something to say."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = spawn(
                [sys.executable, "-m", "taximeter.api", *self._arguments],
                log=log,
                death_signal=SIGTERM,
                environment={**os.environ, **self._environment},
            )

    def check_alive(self) -> None:
        """Raise ProcessFailed, in one line, when it has ended."""
        if self.has_ended:
            code = None if self._child is None else self._child.returncode
            raise ProcessFailed(
                f"the {self.name} has ended by itself (exit {code}); its log: {self.log_path}"
            )

    @property
    def has_ended(self) -> bool:
        """Whether it is not running, though it was started or never was."""
        return self._child is None or self._child.poll() is not None

    def stop(self, grace_s: float = 15.0) -> int:
        """SIGTERM, then SIGKILL after the grace time. Returns its exit code; 0 if it never ran."""
        if self._child is None:
            return 0
        self._child.send_signal(SIGTERM)
        try:
            code = self._child.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._child.send_signal(SIGKILL)
            code = self._child.wait()
        self._child = None
        return code

    def log_tail(self) -> str:
        """The last lines of its log."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])
