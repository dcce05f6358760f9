"""Runs several processes of one server on one port, and starts those again that end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

logger = logging.getLogger("taximeter.sidecar")

_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Before a process that ended is started again; the last one stays, once it ends at every start."""
_READY: Final = b"ready\n"
STOP_NOW: Final = signal.SIGUSR1
"""To one that drains. SIGTERM says too little: systemd sends it to all processes of a unit, before
or after the one that keeps them has told them, and that shall be the beginning of a drain.
"""


def reserve_port(host: str, port: int) -> list[socket.socket]:
    """Sockets of this address that take no connections, and keep it for processes of ours; port 0
    is a free one. Raises OSError when somebody listens there, also when it is another group of
    ours, which the kernel would let share it.
    """
    if port:
        close_all(_bind_all(host, port, shared=False))
    return _bind_all(host, port, shared=True)


def share_port(host: str, port: int) -> list[socket.socket]:
    """Sockets of this address, over which the kernel spreads connections together with those of
    other processes that listen. Those of a process that ends go with it. Raises OSError.
    """
    return _bind_all(host, port, shared=True)


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close these sockets of ours; those that a process has got stay open there."""
    for one in sockets:
        one.close()


def _bind_all(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """One of each address that the host has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, where[0]) for family, *_, where in found):
            made.append(_bind(family, str(address), port, shared=shared))
            port = made[0].getsockname()[1]
    except OSError:
        close_all(made)
        raise
    return made


def _bind(family: int, address: str, port: int, *, shared: bool) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


@dataclass(slots=True)
class Several:
    """Keeps `processes` processes going, each of `command(number)`; all inherit `sockets`.

    A process says on its standard output when it takes connections, and drains when its standard
    input ends: at the first signal to this one, or when this one is gone. At the second signal all
    are told to stop, by a signal that nobody else sends (STOP_NOW).
    """

    processes: int
    command: Callable[[int], Sequence[str]]
    sockets: Sequence[socket.socket]
    _running: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> bool:
        """Until all have ended after a signal, or one of them could not start at first. Returns
        whether all went well. What a process that is killed had promised is in Redis.
        """
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for one in signals:
            loop.add_signal_handler(one, self._told)
        try:
            ends = await asyncio.gather(*map(self._keep, range(self.processes)))
        finally:
            for one in signals:
                loop.remove_signal_handler(one)
        return all(ends)

    def _told(self) -> None:
        if not self._stopping.is_set():
            self._stop()
            return
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(STOP_NOW)

    def _stop(self) -> None:
        """Let all drain. Who connects to our own copies when they are gone would wait for us."""
        logger.info("all processes drain")
        self._stopping.set()
        close_all(self.sockets)
        for process in self._running.values():
            _drain(process)

    async def _keep(self, number: int) -> bool:
        pauses = iter(_PAUSES_S)
        pause_s, was_ready = 0.0, False
        while not self._stopping.is_set():
            process = await self._start(number)
            assert process.stdout is not None
            try:
                if await process.stdout.readline() == _READY:
                    was_ready, pauses = True, iter(_PAUSES_S)
                    logger.info("process %d listens, pid %d", number + 1, process.pid)
                code = await process.wait()
            finally:
                del self._running[number]
            if self._stopping.is_set():
                return code == 0
            if not was_ready:
                # The others would end in the same way, or serve without one that was asked for.
                self._stop()
                return False
            pause_s = next(pauses, pause_s)
            logger.error("process %d ended (%d); another in %g s", number + 1, code, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
        return True

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.command(number),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[one.fileno() for one in self.sockets],
            start_new_session=True,  # Else it hears a Ctrl-C twice, and the second ends its drain.
        )
        self._running[number] = process
        if self._stopping.is_set():
            _drain(process)
        return process


def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


@dataclass(frozen=True, slots=True)
class Member:
    """What one of several processes was given by the one that keeps them: its number, and the
    descriptor of the socket that it inherited, if it did.
    """

    number: int
    inherited: int | None

    def say_ready(self) -> None:
        """Tell the keeper that connections are taken."""
        with contextlib.suppress(OSError):  # It is gone; what follows its end stops this process.
            os.write(sys.stdout.fileno(), _READY)

    @contextmanager
    def following_keeper(
        self, drain: Callable[[], None], stop: Callable[[], None]
    ) -> Iterator[None]:
        """Call `drain` once when the keeper says so or is gone, and `stop` when it says that, until
        the block ends.
        """
        loop = asyncio.get_running_loop()

        def told() -> None:
            loop.remove_reader(sys.stdin)
            drain()

        loop.add_reader(sys.stdin, told)
        loop.add_signal_handler(STOP_NOW, stop)
        try:
            yield
        finally:
            loop.remove_reader(sys.stdin)
            loop.remove_signal_handler(STOP_NOW)
