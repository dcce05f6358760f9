"""A caller of the LLM route on a bare socket, who can leave at any byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from support.waiting import eventually
from support.world import CHAT, World


async def open_request(
    url: str, token: str, body: dict[str, Any], path: str = CHAT
) -> socket.socket:
    """Send a request and return its socket, with nothing read."""
    content = json.dumps(body).encode()
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    raw = socket.create_connection((host, int(port)))
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(raw, head.encode() + content)
    return raw


async def open_stream(world: World, *, stream: bool = True, **body: Any) -> socket.socket:
    """Ask for a chat on a bare socket."""
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Hello there"}],
        "stream": stream,
        **body,
    }
    return await open_request(world.url, world.token("ann"), body)


async def read_until(raw: socket.socket, mark: bytes, times: int = 1) -> bytes:
    got = b""
    async with asyncio.timeout(60):
        while got.count(mark) < times:
            part = await asyncio.get_running_loop().sock_recv(raw, 65536)
            assert part, got
            got += part
    return got


def abort(raw: socket.socket) -> None:
    """Reset the connection, as a client does that is killed."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


async def nothing_open(world: World, within_s: float = 60) -> None:
    async def is_closed() -> bool:
        return (await world.balance()).held == 0

    await eventually(is_closed, within_s=within_s, what="the end of the hold")


async def something_held(world: World) -> None:
    async def is_held() -> bool:
        return (await world.balance()).held > 0

    await eventually(is_held, what="the hold")
