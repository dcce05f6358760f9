"""The server's bounds on what is not yet a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from support.listening import listening

from taximeter.api.web.wire_protocol import HEAD_BYTES_MAX, BoundedProtocol


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    if scope["path"] == "/breaks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return
    if scope["path"] == "/streams":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"two", b""):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
        return
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        _echo,
        host="127.0.0.1",
        port=0,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
    )
    async with listening(uvicorn.Server(config)) as url:
        yield int(url.rpartition(":")[2])


async def ask(port: int, *parts: bytes, answers: int = 1) -> bytes:
    """Send the parts one by one until the server has answered or hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        async with asyncio.timeout(60):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            while got.count(b"HTTP/1.1 ") < answers or not got.rpartition(b"\r\n\r\n")[2]:
                more = await reader.read(65536)
                if not more:
                    break
                got += more
    except ConnectionError:
        pass
    finally:
        writer.close()
    return got


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
ENDLESS = {
    "a header": [HEAD, b"X-Long: ", *[b"x" * 1000] * 60],
    "many headers": [HEAD, *[b"X-Many: " + b"x" * 100 + b"\r\n"] * 400],
    "an address": [b"GET /", *[b"x" * 1000] * 60],
    "many headers at once": [HEAD + (b"X-Many: " + b"x" * 100 + b"\r\n") * 400],
    "a trailer": [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
        *[b"X-Many: " + b"x" * 100 + b"\r\n"] * 400,
    ],
    "the frame of a chunk": [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
        *[b"x" * 1000] * 60,
    ],
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_what_has_no_end_is_refused(port: int, kind: str) -> None:
    got = await ask(port, *ENDLESS[kind])
    # The server hangs up on a sender that is still sending, who then may not see the answer.
    assert got == b"" or got.startswith(b"HTTP/1.1 400 "), got


async def test_what_is_large_but_allowed_is_served(port: int) -> None:
    value = b"x" * (HEAD_BYTES_MAX - 1000)
    body = b"y" * (4 * HEAD_BYTES_MAX)
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    request = HEAD + b"X-Large: " + value + b"\r\n" + length + body
    # In one piece, in many, and twice on one connection, where the sums begin anew.
    small = [request[place : place + 4096] for place in range(0, len(request), 4096)]
    for parts, answers in (([request], 1), (small, 1), ([request, request], 2)):
        got = await ask(port, *parts, answers=answers)
        assert got.count(b"HTTP/1.1 200 OK") == answers
        assert got.endswith(str(len(body)).encode())


async def exchange(port: int, request: bytes, end: bytes) -> bytes:
    """The answer up to `end`, or up to where the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.readuntil(end)
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.close()


async def test_every_kind_of_answer_leaves_whole(port: int) -> None:
    """A head waits for its body: also where that is empty, comes in parts, or never comes."""
    head = b" HTTP/1.1\r\nHost: x\r\n"
    got = await exchange(port, b"HEAD /" + head + b"\r\n", b"\r\n\r\n")
    assert got.endswith(b"\r\n\r\n")
    assert b"content-length: 1\r\n" in got
    got = await exchange(port, b"GET /streams" + head + b"\r\n", b"0\r\n\r\n")
    assert got.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    got = await exchange(port, b"GET /breaks" + head + b"\r\n", b"never")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    asks = head + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    got = await exchange(port, b"POST /" + asks, b"\r\n\r\n")
    assert got == b"HTTP/1.1 100 Continue\r\n\r\n", "before the body is sent"
    got = await exchange(port, b"POST /" + asks + b"abc", b"\r\n\r\n3")
    assert got.count(b"HTTP/1.1 200 OK") == 1
