"""One process of a run, which may be killed and paused, and is started again when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals

from support.forked import Forked

from chaos.valkey import set_clock
from taximeter.api.embedded.spawn import Child, spawn

TESTS = Path(__file__).parents[1]


class Worker:
    """`python -m MODULE ARGUMENTS` with its settings in the environment and its output in a log
    file.

    The kernel kills it when the runner dies.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.name = name
        self._module = module
        self.log_path = folder / f"{name}.log"
        self._arguments = list(arguments)
        self._environment = {**os.environ, "PYTHONPATH": str(TESTS), **environment}
        self.clock_path = folder / f"{name}.clock"
        self._child: Child | Forked | None = None
        self.starts = 0

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last; 0 when none was started yet."""
        return self._child.pid if self._child is not None else 0

    def set_clock(self, ahead_s: float) -> None:
        """Let its wall clock be so many seconds ahead of the machine's, within a second."""
        set_clock(self.clock_path, ahead_s)

    def start(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        if "LD_PRELOAD" not in self._environment:
            self._child = Forked(
                self._arguments,
                module=self._module,
                environment=self._environment,
                output=self.log_path,
            )
            return
        # What a process loads before anything else cannot be given to one that is there already.
        with self.log_path.open("ab") as log:
            self._child = spawn(
                [sys.executable, "-m", self._module, *self._arguments],
                log=log,
                death_signal=SIGKILL,
                environment=self._environment,
            )

    def ensure(self) -> bool:
        """Start it unless it runs; returns whether it had to be started."""
        if self.running:
            return False
        self.start()
        return True

    def kill(self) -> None:
        if self._child is not None:
            self._signal(SIGKILL)
            self._child.wait()

    def pause(self) -> None:
        self._signal(SIGSTOP)

    def resume(self) -> None:
        self._signal(SIGCONT)

    def stop(self, grace_s: float = 20.0) -> bool:
        """SIGTERM; SIGKILL after the grace time. Returns whether it ended by itself."""
        if self._child is None:
            return True
        self._signal(SIGCONT)
        self._signal(SIGTERM)
        try:
            self._child.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def log(self) -> str:
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def _signal(self, number: Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)
