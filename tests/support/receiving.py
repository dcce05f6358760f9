"""A server that keeps what it is sent, and what a test sends notices to it with."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import web
from cryptography.fernet import Fernet

from support.books import Books
from taximeter.settler.notices.deliver import Deliverer
from taximeter.settler.notices.sealing import Sealer, make_secret

KEY = Fernet.generate_key().decode()
SECRET = make_secret()


@dataclass
class Receiver:
    """A server that keeps what it was sent. `answers`: statuses in turn, then 204; None hangs."""

    url: str = ""
    answers: list[int | None] = field(default_factory=list)
    seen: list[tuple[dict[str, str], str]] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.seen.append(({name.lower(): one for name, one in request.headers.items()}, body))
        status = self.answers.pop(0) if self.answers else 204
        if status is None:
            await self.let_go.wait()
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status or 204, headers=headers)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.seen]

    @property
    def said(self) -> list[Any]:
        return [json.loads(body)["data"].get("n") for _, body in self.seen]


@asynccontextmanager
async def listening(
    receiver: Receiver, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        receiver.url = f"http://127.0.0.1:{port}/hook"
        yield receiver
    finally:
        receiver.let_go.set()
        await runner.cleanup()


async def add(
    books: Books, url: str, *, org: str | None = "org", key: str = KEY, types: str = "{*}"
) -> UUID:
    """A receiver of this URL."""
    sealer = Sealer(key)
    made: UUID = await books.value(
        "INSERT INTO taximeter.receivers (org_id, kind, name, address, secret, key_mark, types,"
        " percents, created_by) VALUES ($1, 'webhook', 'r', $2, $3, $4, $5::text::text[], '{80}',"
        " 'boss') RETURNING id",
        *(org, sealer.seal(url), sealer.seal(SECRET), sealer.mark, types),
    )
    return made


async def note(books: Books, n: int, subject: str = "s", type_: str = "member.joined") -> None:
    await books.run(
        "INSERT INTO taximeter.notices (type, org_id, subject, data)"
        " VALUES ($1, 'org', $2, jsonb_build_object('n', $3::integer))",
        *(type_, subject, n),
    )


async def rounds(deliverer: Deliverer, many: int = 3) -> None:
    """Everything that is due now, with what follows it."""
    for _ in range(many):
        await deliverer.round()
        await deliverer.idle()
