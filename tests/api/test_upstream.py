"""The connection to the provider: asked once whatever happens to it, and never led elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.taking import Taking
from support.world import World

from taximeter.api.upstreams.config import UpstreamConfig
from taximeter.api.upstreams.upstream import Upstream
from taximeter.api.web.errors import ApiError

HEADERS = {"X-Request-Id": "req-1"}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Provider:
    """Answers each request with the next of its answers; an empty one hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answer = b"anything"
        while answer:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            answer = self.answers.pop(0)
            writer.write(answer)


@asynccontextmanager
async def asking(provider: Provider, **options: object) -> AsyncIterator[Upstream]:
    async with Taking(provider.serve) as server:
        config = UpstreamConfig.model_validate(
            {"name": "one", "base_url": f"{server.url}/v1/", **options}
        )
        async with Upstream.open(config) as upstream:
            yield upstream


async def ask(upstream: Upstream, content: bytes = b'{"a":1}') -> bytes:
    payer = ("acme", "ann")
    return await upstream.read(await upstream.send("/chat/completions", content, HEADERS, payer))


async def test_a_connection_that_breaks_is_not_asked_twice() -> None:
    """A completion costs money at the provider too: no client may repeat it behind our back."""
    provider = Provider(OK, b"")
    async with asking(provider) as upstream:
        assert await ask(upstream) == b"{}"
        with pytest.raises(ApiError) as refusal:
            await ask(upstream)
    assert refusal.value.status == 502
    assert len(provider.requests) == 2
    assert provider.connections == 1, "the second request took the first one's connection"


async def test_what_is_sent() -> None:
    provider = Provider(OK)
    async with asking(provider, api_key="key-1") as upstream:
        await ask(upstream)
    head, _, body = provider.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.lower().split(b"\r\n")
    assert line == b"post /v1/chat/completions http/1.1"
    assert body == b'{"a":1}'
    for expected in (
        b"content-type: application/json",
        b"authorization: bearer key-1",
        b"x-request-id: req-1",
        b"user-agent: taximeter",
    ):
        assert headers.count(expected) == 1


async def test_a_redirect_is_not_followed_and_a_cookie_not_kept() -> None:
    elsewhere = b"HTTP/1.1 307 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    cookie = OK.replace(b"Content-Type", b"Set-Cookie: a=b\r\nContent-Type")
    provider = Provider(cookie, OK, elsewhere)
    async with asking(provider) as upstream:
        await ask(upstream)
        await ask(upstream)
        with pytest.raises(ApiError) as refusal:
            await ask(upstream)
    assert refusal.value.status == 502
    assert len(provider.requests) == 3
    assert b"cookie:" not in provider.requests[1].lower()


async def test_a_large_body_arrives_whole(world: World) -> None:
    await world.funded()
    response = await world.chat(messages=[{"role": "user", "content": "word " * 500_000}])
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] > 600_000
    await world.prove()
