"""What stands around every request: a line in the log, and an answer when the process ends."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import structlog
from support.processes import running, same_books
from support.taking import Taking
from support.waiting import eventually
from support.world import World

from taximeter.settler.books.logs import configure_logs

GRACE_S = 2.0


@pytest.fixture
async def silent_upstream() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A provider that takes a request and never answers; the event says that it has one."""
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with Taking(take) as server:
        yield f"{server.url}/v1", asked


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_what_the_grace_cuts_off_gets_an_answer_within_it(
    world: World, silent_upstream: tuple[str, asyncio.Event]
) -> None:
    await world.funded("ann", 20.0)
    url, asked = silent_upstream
    settings = {
        **same_books(world),
        "upstream_base_url": url,
        "shutdown_grace_s": GRACE_S,
    }
    async with (
        running("api", "--port", "0", **settings) as api,
        httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=60) as client,
    ):
        request = asyncio.create_task(
            client.post(
                "/v1/chat/completions",
                json={"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]},
                headers={**world.auth("ann"), "X-Request-Id": "cut-off-1"},
            )
        )
        await asyncio.wait_for(asked.wait(), 60)
        began = time.monotonic()
        api.process.terminate()
        response = await request
        assert response.status_code == 503, response.text
        assert response.json()["error"]["code"] == "SHUTTING_DOWN"
        assert response.headers["x-request-id"] == "cut-off-1"
        assert response.headers["retry-after"] == "1"
        assert await api.ended() == 0
        # It waits for nobody (its upstream never answers), and there is room for a slow machine.
        assert time.monotonic() - began < GRACE_S + 60.0
    lines = [json.loads(line) for line in api.output.decode().splitlines()]
    assert all({"event", "level", "time"} <= line.keys() for line in lines)
    line = next(line for line in lines if line["event"] == "request")
    assert (line["route"], line["status"], line["caller"]) == (
        "/v1/chat/completions",
        503,
        "session",
    )
    assert line["request_id"] == "cut-off-1"
    assert line["ms"] > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_refused_token_is_explained_in_the_log_and_never_shown(world: World) -> None:
    token = world.auth("ann")["Authorization"].removeprefix("Bearer ")
    broken = token[:-6] + "AAAAAA"
    async with (
        running("api", "--port", "0", **same_books(world)) as api,
        httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=60) as client,
    ):
        response = await client.get(
            "/api/v1/auth/user", headers={"Authorization": f"Bearer {broken}"}
        )
        assert response.status_code == 401

        async def said() -> bool:
            return b"token refused" in api.output

        await eventually(said)
        text = api.output.decode()
    line = next(json.loads(one) for one in text.splitlines() if "token refused" in one)
    assert line["event"] == "token refused: The session token is not valid (InvalidSignatureError)"
    assert line["request_id"] == response.headers["x-request-id"]
    assert broken not in text
    assert token.split(".")[2] not in text


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged as JSON; logging is as before afterwards."""
    root = logging.getLogger()
    before = root.handlers[:]
    levels = {log: log.level for log in (root, *map(logging.getLogger, ("taximeter", "uvicorn")))}
    stream = io.StringIO()
    configure_logs("json", stream=stream, request_id=lambda: "r-1")
    yield stream
    root.handlers[:] = before
    for log, level in levels.items():
        log.setLevel(level)
    structlog.reset_defaults()


def test_every_kind_of_line_has_one_form(logged: io.StringIO) -> None:
    structlog.get_logger("taximeter.settler").warning("guardian", shard=3)
    logging.getLogger("uvicorn.error").info("running on %s", "http://x")
    logging.getLogger("asyncpg").info("not for operators")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("taximeter.api").exception("a request failed")
    lines: list[dict[str, Any]] = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "guardian",
        "running on http://x",
        "a request failed",
    ]
    assert [line["level"] for line in lines] == ["warning", "info", "error"]
    assert all(line["request_id"] == "r-1" and line["time"].endswith("Z") for line in lines)
    assert lines[0]["shard"] == 3
    assert "Traceback" in lines[2]["exception"]
