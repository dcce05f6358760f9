"""Starts child processes that the kernel kills when we die, however we die."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO

CHILD_SCRIPT = Path(__file__).with_name("child.py")
Child = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server runs as; the default is whoever we are."""

    uid: int = -1
    gid: int = -1


class _Spawner:
    """One thread that forks every child and lives as long as the process.

    The death signal is tied to the *thread* that forked: a server started from a short-lived thread
    would be killed as soon as that thread ended. A daemon thread of our own ends with the process
    and not before.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Child], Future[Child]]] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], Child]) -> Child:
        with self._lock:
            # A forked copy of this process has no such thread any more, hence the look at whether
            # it lives.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="taximeter-spawner", daemon=True
                )
                self._thread.start()
        answer: Future[Child] = Future()
        self._jobs.put((job, answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                answer.set_result(job())
            except BaseException as error:
                answer.set_exception(error)


_spawner = _Spawner()


def spawn(
    program: Sequence[str],
    *,
    log: IO[bytes],
    death_signal: Signals,
    identity: Identity | None = None,
    keep_open: Sequence[int] = (),
    stdin: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a program in a session of its own; it gets `death_signal` when this process ends.

    The session keeps Ctrl-C away from it: the servers must outlive those who still drain into them.
    Only `keep_open` and the log are inherited. Unless `environment` is given, the program sees none
    but PATH, a C locale and UTC.
    """
    who = identity or Identity()
    command = [
        sys.executable,
        "-IS",
        str(CHILD_SCRIPT),
        str(os.getpid()),
        str(int(death_signal)),
        str(who.uid),
        str(who.gid),
        *program,
    ]
    bare = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

    def start() -> Child:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=bare if environment is None else dict(environment),
            cwd="/",
            pass_fds=keep_open,
            start_new_session=True,
        )

    return _spawner.run(start)
