"""What the server around the application does on the wire: bounds, one write, Unix sockets."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.sidecar import FUNDS, Caller

from taximeter.api.processes import sidecar_server as server
from taximeter.api.processes.sidecar_server import open_unix_socket
from taximeter.api.web.wire_protocol import HeadWaits

BODY = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'
REQUEST = (
    b"POST /v1/charge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


@pytest.fixture
async def wire(
    caller: Caller,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(caller.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    yield reader, writer
    writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head.split()[1]), await reader.readexactly(length)


async def test_pipelined_requests_are_answered_in_order(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = wire
    writer.write(
        REQUEST * 3 + b"GET /v1/balance?org_id=acme&user_id=ann HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    for _ in range(3):
        assert (await answer(reader))[0] == 200
    status, body = await answer(reader)
    assert (status, f'"available_millicredits":{FUNDS - 3}'.encode() in body) == (200, True)


async def test_an_answer_is_one_write(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []

    class Recording:
        def __init__(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def write(self, data: bytes) -> None:
            writes.append(data)
            self.transport.write(data)

    whole = HeadWaits.write

    def recorded(self: HeadWaits, data: bytes) -> None:
        if not isinstance(self._transport, Recording):
            self._transport = Recording(self._transport)  # type: ignore[assignment]
        whole(self, data)

    monkeypatch.setattr(HeadWaits, "write", recorded)
    reader, writer = wire
    writer.write(REQUEST)
    assert (await answer(reader))[0] == 200
    assert len(writes) == 1


async def test_an_answer_to_head_does_not_wait_for_a_body(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = wire
    writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")


async def test_expect_continue_is_answered_at_once(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = wire
    head, _, body = REQUEST.partition(b"\r\n\r\n")
    writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await answer(reader))[0] == 200


async def test_what_is_not_http_is_refused(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = wire
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    assert (await answer(reader))[0] == 400
    assert await reader.read() == b""


async def cut_off(wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], endless: bytes) -> bool:
    """Whether the other side goes away, without an answer, within some megabytes of this."""
    reader, writer = wire
    gone = asyncio.create_task(reader.read())
    for _ in range(5000):
        if gone.done():
            break
        writer.write(endless)
        try:
            await writer.drain()
        except ConnectionError:
            break
        await asyncio.sleep(0)  # Lets the loop find out that the other side has gone.
    else:
        return False
    try:
        async with asyncio.timeout(60):
            return await gone == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "endless",
    [b"X: " + b"y" * 1000, b"X-Many: 1\r\n" * 90, b"y" * 1000],
    ids=["one header", "many headers", "no line"],
)
async def test_an_endless_head_is_cut_off(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], endless: bytes
) -> None:
    wire[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    assert await cut_off(wire, endless)


async def test_endless_trailers_are_cut_off(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_BYTES_MAX", 1000)
    wire[1].write(
        b"POST /v1/charge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    )
    assert await cut_off(wire, b"X: " + b"y" * 1000 + b"\r\n")


async def test_a_slow_head_is_cut_off(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.05)
    reader, writer = wire
    writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
    async with asyncio.timeout(60):
        assert await reader.read() == b""


async def test_a_slow_body_is_refused(
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taximeter.meter.sidecar.body.BODY_TIMEOUT_S", 0.05)
    reader, writer = wire
    writer.write(REQUEST[:-1])
    status, body = await answer(reader)
    assert (status, b"REQUEST_TIMEOUT" in body) == (408, True)
    assert await reader.read() == b""


def test_a_unix_socket_is_private_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    with open_unix_socket(path, 0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    open_unix_socket(path, 0o600).close()
    with open_unix_socket(path, 0o600) as live:
        live.listen()
        with pytest.raises(OSError, match="another process listens"):
            open_unix_socket(path, 0o600)
    path.unlink()
    path.write_text("mine")
    with pytest.raises(OSError, match="is not a socket"):
        open_unix_socket(path, 0o600)
    assert path.read_text() == "mine"
    with pytest.raises(OSError, match="No such file"):
        open_unix_socket(tmp_path / "no" / "folder.sock", 0o600)
