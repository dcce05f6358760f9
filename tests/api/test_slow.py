"""Senders who never finish: each server answers them and lets them go, and serves others
meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn
from support.listening import listening
from support.sidecar import served
from support.world import BILLING, CHAT, World

from taximeter.api.processes import sidecar_server
from taximeter.api.web import body_limit as middleware
from taximeter.api.web import wire_protocol as protocol
from taximeter.api.web.wire_protocol import BoundedProtocol
from taximeter.meter.sidecar import body as sidecar_body
from taximeter.meter.sidecar import create_sidecar

SOON_S = 0.3


@pytest.fixture
async def api_port(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The API behind the protocol that `taximeter api` serves it with."""
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", SOON_S)
    monkeypatch.setattr(middleware, "LLM_BODY_TIMEOUT_S", SOON_S)
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", SOON_S)
    config = uvicorn.Config(
        world.app,
        host="127.0.0.1",
        port=0,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",  # It is open already, for the world's own server.
        log_config=None,
    )
    async with listening(uvicorn.Server(config)) as url:
        yield int(url.rpartition(":")[2])


async def begin(port: int, start: bytes) -> bytes:
    """What a server says to somebody who sends this and then nothing, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


def head(path: str, token: str = "") -> bytes:
    login = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{login}Content-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", [f"{BILLING}/subscriptions", CHAT, "/v1/chat/completions"])
async def test_the_api_does_not_wait_for_a_body_for_ever(
    world: World, api_port: int, path: str
) -> None:
    await world.funded("root")
    said = await begin(api_port, head(path, world.token("root", system_admin=True)) + b'{"a": ')
    assert said.startswith(b"HTTP/1.1 408 "), said
    document = json.loads(said.partition(b"\r\n\r\n")[2])
    assert document["error"]["code"] == "REQUEST_TIMEOUT"
    assert document["detail"] == "The body did not arrive in time"


async def test_the_api_does_not_wait_for_a_head_for_ever(world: World, api_port: int) -> None:
    said = await begin(api_port, head(CHAT)[:40])
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert b"did not arrive in time" in said
    # A second request of one connection is timed like the first.
    whole = b"GET /api/v1/auth/user HTTP/1.1\r\nHost: x\r\n\r\n"
    said = await begin(api_port, whole + b"GET /api/v1")
    assert said.startswith(b"HTTP/1.1 401 "), said
    assert b"HTTP/1.1 400 " in said


async def test_a_sidecar_waits_for_neither(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_body, "BODY_TIMEOUT_S", SOON_S)
    monkeypatch.setattr(sidecar_server, "HEAD_TIMEOUT_S", SOON_S)
    meter = await world.app.state.services.meters.get()
    async with served(create_sidecar(meter)) as url:
        port = int(url.rpartition(":")[2])
        said = await begin(port, head("/v1/charge") + b'{"a": ')
        assert said.startswith(b"HTTP/1.1 408 "), said
        assert b"REQUEST_TIMEOUT" in said
        assert await begin(port, head("/v1/charge")[:40]) == b""


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000])
async def test_deep_json_is_refused(world: World, body: bytes) -> None:
    await world.funded("root")
    headers = {**world.root, "Content-Type": "application/json"}
    for path in (f"{BILLING}/subscriptions", CHAT):
        answer = await world.client.post(path, content=body, headers=headers)
        assert answer.status_code == 422, path
        assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
    meter = await world.app.state.services.meters.get()
    async with served(create_sidecar(meter)) as url:
        answer = await world.client.post(
            f"{url}/v1/charge", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "INVALID_REQUEST"


async def test_a_body_over_the_limit_is_refused_before_it_comes(world: World) -> None:
    port, token = int(world.url.rpartition(":")[2]), world.token("root", system_admin=True)
    for path, size in (
        (f"{BILLING}/subscriptions", world.settings.admin_body_bytes_max + 1),
        (CHAT, world.settings.llm_body_bytes_max + 1),
    ):
        said = await begin(port, head(path, token).replace(b": 1000", b": %d" % size))
        assert said.startswith(b"HTTP/1.1 413 "), path
        assert b"PAYLOAD_TOO_LARGE" in said
