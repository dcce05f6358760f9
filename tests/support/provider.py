"""A provider that does exactly what a test says, down to single bytes on its sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from support.taking import Taking

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@dataclass
class Asked:
    """One request as it arrived, and its connection."""

    line: str
    headers: dict[str, str]
    content: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def answer(self, document: Any, status: str = "200 OK", **headers: str) -> None:
        """One whole answer."""
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *lines])
        await self.send(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode(), content)

    async def begin(self) -> None:
        """The head of a stream."""
        await self.send(STREAM_HEAD)

    async def chunk(self, content: bytes) -> None:
        """One piece of a stream."""
        await self.send(b"%x\r\n%b\r\n" % (len(content), content))

    async def text(self, *texts: str, finish: str | None = None, usage: Any = None) -> None:
        """A token each, as events of a chat."""
        for text in texts:
            await self.chunk(event(chat_chunk(text)))
        if finish is not None:
            await self.chunk(event(chat_chunk("", finish)))
        if usage is not None:
            await self.chunk(event({**chat_chunk("", None), "choices": [], "usage": usage}))

    async def end(self) -> None:
        """The mark of the end, and the end."""
        await self.chunk(b"data: [DONE]\n\n")
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()


Script = Callable[[Asked], Awaitable[None]]


class Provider:
    """Listens on a free loopback port. Each request runs the script; `asked` has all of them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self._taking = Taking(self._serve)

    @property
    def url(self) -> str:
        return f"{self._taking.url}/v1"

    def close(self) -> None:
        """Be gone: connections are refused from now on, and those that are open end."""
        self._taking.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        early = b""
        while True:
            asked = await self._read(reader, writer, early)
            self.asked.append(asked)
            script = asyncio.ensure_future(self.script(asked))
            # While a script runs nothing is read but the end: its caller has left.
            watch = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait({script, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not script.done():
                    asked.gone.set()
                    await asyncio.wait({script}, timeout=5)
            finally:
                script.cancel()
                watch.cancel()
                results = await asyncio.gather(watch, script, return_exceptions=True)
            if writer.is_closing() or asked.gone.is_set() or results[0] == b"":
                break
            # The first byte of the next request may have been taken for the end.
            early = results[0] if isinstance(results[0], bytes) else b""

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes
    ) -> Asked:
        head = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        pairs = (one.partition(":") for one in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        return Asked(line, headers, content, writer)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Provider]:
        async with self._taking:
            yield self


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chat_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }


def chat_answer(text: str = "Hello", usage: Any = USAGE, **fields: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [choice],
        **fields,
    }
    return answer if usage is None else {**answer, "usage": usage}


def answer_after(go_on: asyncio.Event) -> Script:
    """Answers a chat whole, but not before this is set."""

    async def script(asked: Asked) -> None:
        await go_on.wait()
        await asked.answer(chat_answer())

    return script
