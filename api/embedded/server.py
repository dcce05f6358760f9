"""Starts and stops an embedded server: takes its folder and a port, waits for its answer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from types import TracebackType
from typing import Self

from taximeter.api.embedded.machine import (
    POLL_S,
    PortTaken,
    ServerFailed,
    kept_port,
    locked_within,
)
from taximeter.api.embedded.spawn import Child, Identity, spawn

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOCK_TIMEOUT_S = 10.0
PORT_ATTEMPTS_MAX = 5
LOG_TAIL_BYTES_MAX = 4_000


class EmbeddedServer(ABC):
    """A real server as our own child process, with its data and log under one folder.

    `start` returns when the server answers. It may be called again after `stop` or `kill`; the port
    stays the same, so that clients find the server again, and the next process that starts one on
    the folder takes it too unless somebody else has it. A folder left behind by a killed parent
    starts like any other. The server never outlives this process.
    """

    name: str
    death_signal: Signals
    stop_signal: Signals

    def __init__(self, data_dir: Path, extra_args: Sequence[str] = ()) -> None:
        self.data_dir = data_dir.absolute()
        self.extra_args = tuple(extra_args)
        self.log_path = self.data_dir / "server.log"
        self.identity = Identity()
        self._process: Child | None = None
        self._port: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that clients use."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether our own process, and not another one on its port, takes requests."""

    def prepare(self) -> None:  # noqa: B027 - most servers lay out their folder themselves
        """Lay out the data folder; called with the folder's lock held, before every start."""

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError(f"{self.name} was never started: it has no port yet")
        return self._port

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers, else raise `ServerFailed` with its log."""
        if self.running:
            raise RuntimeError(f"{self.name} is already running")
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with self._folder_lock() as lock:
                self.prepare()
                self._start_on_a_port(lock)
        except PermissionError as error:
            raise ServerFailed(
                f"{self.name} cannot use {self.data_dir}: {error.strerror} ({error.filename}); "
                "was it made by another user?"
            ) from error

    def stop(self) -> None:
        """End the server in good order, insisting after `STOP_TIMEOUT_S`; fine if it is gone."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.send_signal(SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def log_tail(self) -> str:
        """Return the end of what the server has written since it was last started."""
        try:
            written = self.log_path.read_bytes()
        except FileNotFoundError:
            return ""
        return written[-LOG_TAIL_BYTES_MAX:].decode(errors="replace").strip()

    def run_to_end(self, program: Sequence[str], *, what: str, text: str = "") -> None:
        """Run a helper program as the server's own user, `text` on its standard input.

        Raises `ServerFailed` with its output when it fails.
        """
        log = self.log_path.with_name("prepare.log")
        with log.open("wb") as output, tempfile.TemporaryFile() as given:
            given.write(text.encode())
            given.seek(0)
            child = spawn(
                program, log=output, death_signal=SIGKILL, identity=self.identity, stdin=given
            )
            code = child.wait(READY_TIMEOUT_S)
        if code != 0:
            said = log.read_text(errors="replace")[-LOG_TAIL_BYTES_MAX:]
            raise ServerFailed(f"{self.name}: {what} failed with code {code}:\n{said}")

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[int]:
        """Lock the folder: one server at a time on the same data.

        The server inherits the locked descriptor, and so do its own children. We close ours: the
        lock then lasts as long as any of them lives, and a start after a crash waits until the last
        one is gone.
        """
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not locked_within(lock, LOCK_TIMEOUT_S):
                raise ServerFailed(
                    f"{self.name}: another process uses {self.data_dir}; stop it first"
                )
            yield lock
        finally:
            os.close(lock)

    def _start_on_a_port(self, lock: int) -> None:
        known = self._port is not None
        for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
            if not known:
                self._port = kept_port(self.data_dir / "port")
            try:
                self._launch(lock)
                return
            except PortTaken:
                if attempt == PORT_ATTEMPTS_MAX or known:
                    raise

    def _launch(self, lock: int) -> None:
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_suffix(".log.old"))
        with self.log_path.open("wb") as log:
            self._process = spawn(
                self.command(),
                log=log,
                death_signal=self.death_signal,
                identity=self.identity,
                keep_open=(lock,),
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, process: Child) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.answers():
            code = process.poll()
            if code is not None:
                tail = self.log_tail()
                failure = PortTaken if "Address already in use" in tail else ServerFailed
                raise failure(f"{self.name} ended with code {code} while starting:\n{tail}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.name} did not answer within {READY_TIMEOUT_S:g} s:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)
