"""The reverse proxies of docs/production.md as they stand, on Debian's nginx and Caddy, in front of
the API: streams come as they are made, bodies and headers pass, what is private stays so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support.proxies import NGINX_MAIN, program_of, rewired, running
from support.world import serving

from taximeter.api.embedded.machine import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "production.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [text] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


class Origin:
    """What stands behind the proxy: it says what reached it, and streams when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.private = 0
        self.app = Starlette(
            routes=[
                Route("/api/v1/echo", self.echo, methods=["POST"]),
                Route("/api/v1/stream", self.stream),
                Route("/{path:path}", self.anything),
            ]
        )

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        headers = dict(request.headers)
        return JSONResponse({"headers": headers, "bytes": len(body)})

    async def stream(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"data: one\n\n"
            await self.go_on.wait()
            yield b"data: two\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def anything(self, request: Request) -> Response:
        self.private += request.url.path in ("/metrics", "/readyz", "/livez", "/healthz")
        return Response("there", headers={"X-Request-Id": "r-1"})


@asynccontextmanager
async def nginx(url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    program = program_of("nginx", "nginx-light")
    port = free_port()
    text = rewired(
        block("nginx"),
        {
            "127.0.0.1:8084": url.removeprefix("http://"),
            "listen 443 ssl;": f"listen 127.0.0.1:{port};",
            # What a certificate brings is nginx's own business.
            "    ssl_certificate     /etc/ssl/credits.example.com.pem;\n": "",
            "    ssl_certificate_key /etc/ssl/private/credits.example.com.key;\n": "",
        },
    )
    (folder / "taximeter.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder))
    command = (program, "-p", str(folder), "-c", str(folder / "nginx.conf"))
    async with running(*command, folder=folder, port=port) as client:
        yield client


@asynccontextmanager
async def caddy(url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    program = program_of("caddy", "caddy")
    port = free_port()
    text = rewired(
        block("caddyfile"),
        {
            "127.0.0.1:8084": url.removeprefix("http://"),
            "credits.example.com {": f"http://127.0.0.1:{port} {{",
        },
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    command = (program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile"))
    async with running(*command, folder=folder, port=port) as client:
        yield client


PROXIES = pytest.mark.parametrize("proxy", [nginx, caddy], ids=["nginx", "caddy"])


@PROXIES
async def test_the_proxy_of_the_page(proxy: Any, tmp_path: Path) -> None:
    origin = Origin()
    async with serving(origin.app) as url, proxy(url, tmp_path) as client:
        # The first event is here while the second is not made yet.
        async with client.stream("GET", "/api/v1/stream") as answer:
            parts = answer.aiter_bytes()
            async with asyncio.timeout(60):
                assert await anext(parts) == b"data: one\n\n"
            origin.go_on.set()
            assert b"".join([part async for part in parts]) == b"data: two\n\n"

        own = client.base_url.netloc.decode()
        host = own if proxy is caddy else "credits.example.com:8443"
        given = {
            "Authorization": "Bearer x",
            "X-Request-Id": "r-7",
            "X-Org-Id": "acme",
            "Idempotency-Key": "k",
            "Host": host,
            "Cookie": "session_token=y",
        }
        largest = b"x" * 8_388_608
        answer = await client.post("/api/v1/echo", content=largest, headers=given)
        assert answer.status_code == 200, answer.text
        reached = answer.json()
        assert reached["bytes"] == len(largest)
        for header, value in given.items():
            assert reached["headers"][header.lower()] == value
        if proxy is nginx:  # Caddy leaves it to the API.
            larger = await client.post("/api/v1/echo", content=b"x" * 10_000_000, headers=given)
            assert larger.status_code == 413

        for path in ("/metrics", "/readyz", "/livez", "/healthz"):
            assert (await client.get(path)).status_code == 404
        assert origin.private == 0
        answer = await client.get("/api/v1/system/status")
        assert (answer.text, answer.headers["x-request-id"]) == ("there", "r-1")
