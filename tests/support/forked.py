"""Commands of ours as processes that are forked from one which has imported everything already. To
import it again and again took a third of what all tests together take.

Such a process is like any other: its own pid, settings, output and exit code, it is stopped, paused
and killed from outside. How a command starts from nothing is for those tests that run it by its
name: tests/acceptance, tests/packaging, tests/sidecar/test_process.py.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).parents[1]
_PR_SET_PDEATHSIG: Final = 1
_COMMAND: Final = "taximeter.api"
_ONE_AT_A_TIME: Final = threading.Lock()
"""multiprocessing reads an exit code once, and whoever comes at the same time finds none."""


class Forked:
    """`python -m MODULE ARGUMENTS` with this environment and its output in a file or a pipe; killed
    when this process ends. The methods are those of subprocess.Popen.

    descriptors: how many it may have, if not as many as we.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path | Connection,
        module: str = _COMMAND,
        descriptors: int | None = None,
    ) -> None:
        self._process = _fork_server().Process(
            target=_run,
            args=(module, list(arguments), dict(environment), output, descriptors),
            daemon=True,
        )
        with _ONE_AT_A_TIME:
            self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        with _ONE_AT_A_TIME:
            code: int | None = self._process.exitcode
        return code

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _fork_server() -> Any:
    """Started with the first process that asks for it; ends with this one."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["support.preloaded"])
    path = os.environ.get("PYTHONPATH")
    # It imports before anybody tells it our own path.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), path]))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path
    return found


def _run(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    output: Path | Connection,
    descriptors: int | None,
) -> None:
    """In the new process: become the command."""
    # As long as anybody has this open the server lives, and ours would outlive the tests with it.
    os.close(forkserver._forkserver._forkserver_alive_fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if isinstance(output, Path):
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    else:
        written = output.fileno()
    for standard in (1, 2):
        os.dup2(written, standard)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    random.seed()  # Else all of them would draw the same.
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
