"""Somebody who opens connections and does little with them."""

from __future__ import annotations

import asyncio
import contextlib
import socket


class Hostile:
    """Many connections to one process, each of which may drip something now and then."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self.sockets: list[socket.socket] = []

    async def open(self, count: int, first: bytes = b"") -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            one = socket.socket()
            one.setblocking(False)
            self.sockets.append(one)
            with contextlib.suppress(OSError):
                await asyncio.wait_for(loop.sock_connect(one, self._address), 5)
                one.send(first)

    def drip(self, data: bytes) -> int:
        """Send this on all that still live; returns how many do."""
        alive = 0
        for one in self.sockets:
            try:
                while one.recv(65536):
                    pass
            except BlockingIOError:
                with contextlib.suppress(OSError):
                    one.send(data)
                    alive += 1
            except OSError:
                pass
        return alive

    def close(self) -> None:
        for one in self.sockets:
            one.close()
