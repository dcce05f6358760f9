"""Finds what the embedded servers need of this machine: a port, a binary, a lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import random
import socket
import time
from collections import deque
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range of outgoing ports: a client that keeps calling a dead server there could otherwise
# be given that very port for its own end, connect to itself, and keep the server from coming back.
PORT_MIN, PORT_MAX = 20_000, 32_000
POLL_S = 0.02
CLAIM = "taximeter-port-"
"""What the names of the sockets begin with that claim a port."""
_CLAIMS_MAX = 64
_claims: deque[int] = deque()
"""Descriptors of the sockets, oldest first."""


class ServerFailed(RuntimeError):
    """An embedded server did not start or stop; the message ends with the tail of its log."""


class PortTaken(ServerFailed):
    """Somebody took the port between our choosing it and the server's binding it."""


def wheel_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it: we only want its binaries."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
    return Path(found.submodule_search_locations[0])


def locked_within(descriptor: int, seconds: float) -> bool:
    """Lock an open file for us alone, as soon as nobody else has it locked; False if that takes
    longer.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        else:
            return True


def is_free(port: int) -> bool:
    """True when nobody listens on that loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def kept_port(path: Path) -> int:
    """The port that is written down in a file, as long as nobody else listens on it; else a free
    one, which is written down: what has once been started on a folder is found where it was.

    Raises ServerFailed, OSError when the file cannot be written.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        port = int(path.read_text(encoding="ascii"))
        if PORT_MIN <= port <= PORT_MAX and is_free(port):
            return port
    port = free_port()
    path.write_text(f"{port}\n", encoding="ascii")
    return port


def free_port(count: int = 1) -> int:
    """Return a loopback port that nobody listens on, and that nobody else is told meanwhile; with a
    `count`, the first of as many that follow one another.

    A port is chosen now and bound by a server a moment later. Until this process ends, or has
    asked for `_CLAIMS_MAX` more, no call returns the same port, in whatever process.
    """
    for _ in range(100):
        first = random.randint(PORT_MIN, PORT_MAX - count + 1)
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            claims = [taken.enter_context(_claim(port)) for port in range(first, first + count)]
            _claims.extend(claim.detach() for claim in claims)
            while len(_claims) > _CLAIMS_MAX:
                os.close(_claims.popleft())
            return first
    raise ServerFailed(f"no free loopback port found between {PORT_MIN} and {PORT_MAX}")


def _claim(port: int) -> socket.socket:
    """A socket that shows others that the port has been given out.

    Its name belongs to the machine and goes with the socket, so that a crash leaves nothing.
    Raises OSError when another shows it, or listens on the port.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0{CLAIM}{port}")
        if not is_free(port):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except OSError:
        claim.close()
        raise
    return claim
