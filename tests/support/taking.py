"""A server of a test's own, in this event loop, that leaves no connection behind when it ends: not
even one that came at the last moment, which asyncio's own server may still be taking by then.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from support.waiting import eventually
from taximeter.api.embedded.machine import LOOPBACK

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_BACKLOG: Final = 100


class Taking:
    """Listens on a free port of the loopback and serves each connection in a task of its own.

    A connection ends with its task, which is cancelled at the end of the block at the latest. It
    may be cut off by its other side at any time.
    """

    def __init__(self, serve: Serve, *, tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Taking:
        self._listener = socket.create_server((LOOPBACK, 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def refuse(self) -> None:
        """Take no more connections; those that are there go on."""
        if self._listener.fileno() != -1:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def close(self) -> None:
        """Be gone: connections are refused from now on, and those that are open end."""
        self.refuse()
        for task in self._tasks:
            task.cancel()

    def _take(self) -> None:
        with suppress(OSError):
            taken, _ = self._listener.accept()
            task = asyncio.create_task(self._one(taken))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # Its own, when the task was cancelled before it began.
            task.add_done_callback(lambda _: taken.close())

    async def _one(self, taken: socket.socket) -> None:
        reader, writers = asyncio.StreamReader(), list[asyncio.StreamWriter]()
        protocol = asyncio.StreamReaderProtocol(reader, lambda _, writer: writers.append(writer))
        taken.setblocking(False)
        with suppress(asyncio.IncompleteReadError, OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, taken, ssl=self._tls
            )
            [writer] = writers
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                writer.transport.abort()
                raise
            finally:
                writer.close()
                await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Wait until the socket of what was closed is closed: at once when this task is cancelled, and
    else when all that was written has gone out. (wait_closed waits for ever for a connection that
    never came to speak TLS.)
    """
    taken = writer.get_extra_info("socket")

    async def is_closed() -> bool:
        return bool(taken.fileno() == -1)

    try:
        await eventually(is_closed, what="the end of a connection")
    except asyncio.CancelledError:
        writer.transport.abort()
        await asyncio.sleep(0)
        raise
