"""Commands of ours as processes that are forked from one which has imported everything already. To
import it again and again took a third of what all tests together take.

Such a process is like any other: its own pid, folder, settings, input, output and exit code, it is
stopped, paused and killed from outside. How a command starts from nothing is for those tests that
run it by its name: tests/acceptance/test_commands.py, tests/packaging, and who reads no further in
tests/acceptance/test_one_line.py.
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
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, NamedTuple

TESTS: Final = Path(__file__).parents[1]
_PR_SET_PDEATHSIG: Final = 1
_COMMAND: Final = "taximeter.api"
_ONE_AT_A_TIME: Final = threading.Lock()
"""multiprocessing reads an exit code once, and whoever comes at the same time finds none."""


class Forked:
    """`python -m MODULE ARGUMENTS` with this environment and its output in a file or a pipe; killed
    when this process ends. The methods are those of subprocess.Popen.

    descriptors: how many it may have, if not as many as we. folder: where it runs, if not where we
    do. entered: its input, which is at its end when nothing is given.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path | Connection,
        module: str = _COMMAND,
        descriptors: int | None = None,
        folder: Path | None = None,
        entered: str = "",
    ) -> None:
        place = folder or Path.cwd()
        self._process = _fork_server().Process(
            target=_run,
            args=(module, list(arguments), dict(environment), output, descriptors, place, entered),
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


class Said(NamedTuple):
    """How a command ended, and what it printed, to either output, in its order."""

    returncode: int
    text: str


def run_forked(
    *arguments: str,
    environment: Mapping[str, str],
    module: str = _COMMAND,
    folder: Path | None = None,
    entered: str = "",
    timeout_s: float = 150,
) -> Said:
    """Run a command to its end. Raises subprocess.TimeoutExpired."""
    with tempfile.NamedTemporaryFile() as output:
        process = Forked(
            arguments,
            environment=environment,
            output=Path(output.name),
            module=module,
            folder=folder,
            entered=entered,
        )
        try:
            return Said(process.wait(timeout_s), Path(output.name).read_text(encoding="utf-8"))
        finally:
            process.kill()


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
    folder: Path,
    entered: str,
) -> None:
    """In the new process: become the command."""
    # As long as anybody has this open the server lives, and ours would outlive the tests with it.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if isinstance(output, Path):
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    else:
        written = output.fileno()
    for standard in (1, 2):
        os.dup2(written, standard)
    with tempfile.TemporaryFile() as typed:
        typed.write(entered.encode())
        typed.seek(0)
        os.dup2(typed.fileno(), 0)
    # What multiprocessing has put in its place reads nothing.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it is the command's
    os.chdir(folder)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    random.seed()  # Else all of them would draw the same.
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
