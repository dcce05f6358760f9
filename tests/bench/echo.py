"""A server with nothing behind it: `python -m bench.echo (asgi|fastapi) PORT`.

Served exactly as the sidecar is, so that the difference is what the sidecar does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

from taximeter.api.processes.sidecar_server import server_config
from taximeter.api.settings.sidecar import SidecarSettings

Message = MutableMapping[str, Any]

PATH = "/v1/reserve"


async def echo(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """The body goes back as it came: nothing is parsed, nothing is looked at."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Reserve(BaseModel):
    """The fields of a reserve, as a FastAPI service would declare them."""

    org_id: str
    user_id: str
    amount_millicredits: int


def fastapi_echo() -> FastAPI:
    """The same in FastAPI."""
    app = FastAPI(openapi_url=None)

    @app.post(PATH)
    async def reserve(body: Reserve) -> Reserve:
        return body

    return app


async def serve(kind: str, port: int) -> None:
    """Serve until a signal comes."""
    settings = SidecarSettings(sidecar_port=port)
    app: Any = fastapi_echo() if kind == "fastapi" else echo
    await uvicorn.Server(server_config(app, settings)).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], int(sys.argv[2])))
