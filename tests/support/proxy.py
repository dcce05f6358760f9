"""A TCP proxy between a client and a server that can lose replies, reset and fall silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit


class Proxy:
    """Listens on a free loopback port and relays to `target` (host, port), which may be changed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._path = parts.path
        self.replies_to_lose = 0
        self.lost = 0
        self._marker = b""
        self._silent = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}{self._path}"

    def lose_replies(self, count: int, *, to: bytes = b"EVALSHA") -> None:
        """Close the connection instead of passing on the next `count` replies to such a command."""
        self.replies_to_lose, self._marker = count, to

    def reset_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def silence(self, silent: bool) -> None:
        """Swallow all replies while true: the connection stays open and nothing comes back."""
        self._silent = silent

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        seen = {"marked": False}

        async def requests() -> None:
            while data := await reader.read(65536):
                seen["marked"] = seen["marked"] or (bool(self._marker) and self._marker in data)
                up_writer.write(data)
                await up_writer.drain()

        async def replies() -> None:
            while data := await up_reader.read(65536):
                if seen["marked"] and self.replies_to_lose > 0:
                    self.replies_to_lose -= 1
                    self.lost += 1
                    return
                seen["marked"] = False
                if not self._silent:
                    writer.write(data)
                    await writer.drain()

        pumps = [asyncio.ensure_future(requests()), asyncio.ensure_future(replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for side in (writer, up_writer):
                self._writers.discard(side)
                with suppress(OSError):
                    side.transport.abort()
