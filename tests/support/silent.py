"""A server that accepts connections and never answers, as a machine that hangs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from taximeter.api.embedded.machine import LOOPBACK


class Silent:
    """The kernel alone takes the connections, and nobody ever reads what they bring."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self._taken = 0

    @property
    def connections(self) -> int:
        """How many came so far; those are closed by asking."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return self._taken
            connection.close()
            self._taken += 1


@contextmanager
def silent_server() -> Iterator[Silent]:
    """Until the block ends, which refuses those that come later."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        yield Silent(listener)
