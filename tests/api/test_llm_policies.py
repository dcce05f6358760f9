"""What happens, and what is charged, when either side of the LLM route leaves, fails or falls
silent: each line of the table in docs/llm-route.md, with sockets closed at the moment it names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.callers import abort, nothing_open, open_stream, read_until, something_held
from support.provider import STREAM_HEAD, USAGE, Asked, Provider, answer_after, chat_answer
from support.waiting import eventually
from support.world import CHAT, World

HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
SILENT: Any = {"upstream_timeout_s": 0.3}


async def never(asked: Asked) -> None:
    await asked.gone.wait()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(never).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider, request: pytest.FixtureRequest) -> dict[str, Any]:
    own: dict[str, Any] = getattr(request, "param", {})
    return {"upstream_base_url": provider.url, "upstream_name": "scripted", **own}


async def asked_once(provider: Provider) -> Asked:
    async def is_asked() -> bool:
        return bool(provider.asked)

    await eventually(is_asked, what="a request upstream")
    return provider.asked[0]


async def only_charge(world: World) -> dict[str, Any]:
    """The one charge, with its metadata; the books are proved with it."""
    [charge] = await world.charges()
    await world.prove()
    return {**charge, **json.loads(charge["metadata"])}


async def nothing_charged(world: World) -> None:
    assert await world.charges() == []
    balance = await world.balance()
    assert (balance.available, balance.held) == (50_000, 0)


async def test_the_first_chunk_is_here_before_the_second_is_sent(
    world: World, provider: Provider
) -> None:
    """No buffer anywhere: the upstream waits until the caller has what it sent last."""
    await world.funded()
    seen = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.begin()
        for text in ("one", "two", "three"):
            await asked.text(text)
            async with asyncio.timeout(60):
                await seen.wait()
            seen.clear()
        await asked.text(finish="stop", usage=USAGE)
        await asked.end()

    provider.script = script
    raw = await open_stream(world)
    for text in (b"one", b"two", b"three"):
        await read_until(raw, text)
        seen.set()
    await read_until(raw, b"[DONE]")
    raw.close()
    assert (await only_charge(world))["completion_tokens"] == 20


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}], indirect=True)
async def test_the_client_leaves_before_the_first_byte_of_a_stream(
    world: World, provider: Provider
) -> None:
    """The upstream is let go at once, and its prompt is charged: it was sent and is paid for."""
    await world.funded()
    raw = await open_stream(world)
    asked = await asked_once(provider)
    abort(raw)
    async with asyncio.timeout(60):
        await asked.gone.wait()
    await nothing_open(world)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge["estimated"]) == (0, True)
    assert charge["prompt_tokens"] > 0


@pytest.mark.parametrize(
    "api_options", [{"left_streams": "stop"}, {"left_streams": "finish"}], indirect=True
)
async def test_the_client_leaves_before_a_connection_to_the_upstream(
    world: World, provider: Provider
) -> None:
    """Nothing was sent, so nothing is charged."""
    await world.funded()
    upstream = world.app.state.services.router.upstreams["scripted"]
    taken = [await upstream._connections.acquire("acme", "ann") for _ in range(500)]
    raw = await open_stream(world)
    await something_held(world)
    abort(raw)
    await nothing_open(world)
    for connection in taken:
        connection.release()
    assert not provider.asked
    await nothing_charged(world)


async def test_the_client_leaves_before_a_whole_answer(world: World, provider: Provider) -> None:
    """The provider does the work to its end, so it is charged."""
    await world.funded()
    go_on = asyncio.Event()
    provider.script = answer_after(go_on)
    raw = await open_stream(world, stream=False)
    asked = await asked_once(provider)
    abort(raw)
    go_on.set()
    await nothing_open(world)
    assert not asked.gone.is_set()
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge.get("estimated")) == (20, None)


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}], indirect=True)
async def test_the_client_leaves_in_the_middle(world: World, provider: Provider) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("one ", "two ", "three ")
        await asked.gone.wait()

    provider.script = script
    raw = await open_stream(world)
    await read_until(raw, b"three")
    abort(raw)
    async with asyncio.timeout(60):
        await (await asked_once(provider)).gone.wait()
    await nothing_open(world)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge["estimated"]) == (3, True)


BEFORE: Any = [b"", b"HTTP/1.1 200 OK\r\n", STREAM_HEAD, b"nonsense\r\n\r\n"]


@pytest.mark.parametrize("sent", BEFORE, ids=("nothing", "half a head", "a head", "nonsense"))
@pytest.mark.parametrize("stream", [True, False], ids=("stream", "whole"))
async def test_the_upstream_breaks_off_before_the_first_byte(
    world: World, provider: Provider, sent: bytes, stream: bool
) -> None:
    """A status of its own, nothing charged, and not asked again: it may have done the work."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.send(sent)
        asked.reset()

    provider.script = script
    response = await world.chat(stream=stream)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "UPSTREAM_ERROR"
    assert len(provider.asked) == 1
    await nothing_charged(world)


@pytest.mark.parametrize("how", ["reset", "closed", "error", "no end"])
async def test_the_upstream_fails_in_the_middle(world: World, provider: Provider, how: str) -> None:
    """What was delivered is charged, and the stream ends with an event that says so."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("a", "b", "c", "d")
        if how == "error":
            await asked.chunk(b'data: {"error": {"message": "out of order"}}\n\n')
            await asked.end()
        elif how == "no end":
            await asked.send(b"0\r\n\r\n")
        elif how == "closed":
            asked.writer.close()
        else:
            asked.reset()

    provider.script = script
    raw = await open_stream(world)
    got = await read_until(raw, b"UPSTREAM_ERROR")
    raw.close()
    assert b"[DONE]" not in got
    charge = await only_charge(world)
    assert 0 < charge["completion_tokens"] <= 4
    assert charge["completion_tokens"] == got.count(b'"content": "')
    assert charge["estimated"] is True


async def test_a_whole_answer_that_breaks_off_costs_nothing(
    world: World, provider: Provider
) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.send(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [')
        asked.reset()

    provider.script = script
    assert (await world.chat()).status_code == 502
    await nothing_charged(world)


@pytest.mark.parametrize("stream", [True, False], ids=("stream", "whole"))
async def test_usage_is_missing(world: World, provider: Provider, stream: bool) -> None:
    """Counted by what was delivered, and marked as counted."""
    await world.funded()

    async def script(asked: Asked) -> None:
        if stream:
            await asked.begin()
            await asked.text(*"abcdefg", finish="stop")
            await asked.end()
        else:
            await asked.answer(chat_answer("word " * 8, usage=None))

    provider.script = script
    response = await world.chat(stream=stream)
    assert response.status_code == 200
    charge = await only_charge(world)
    assert charge["estimated"] is True
    assert charge["completion_tokens"] == (7 if stream else 10)


@pytest.mark.parametrize("api_options", [SILENT], indirect=True)
@pytest.mark.parametrize("stream", [True, False], ids=("stream", "whole"))
async def test_the_upstream_is_silent_before_the_first_byte(
    world: World, provider: Provider, stream: bool
) -> None:
    await world.funded()
    response = await world.chat(stream=stream)
    assert response.status_code == 504
    assert len(provider.asked) == 1
    await nothing_charged(world)


@pytest.mark.parametrize("api_options", [SILENT], indirect=True)
async def test_the_upstream_falls_silent_in_the_middle(world: World, provider: Provider) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("one", "two")
        await asked.gone.wait()

    provider.script = script
    response = await world.chat(stream=True)
    assert "did not answer in time" in response.text
    assert "[DONE]" not in response.text
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge["estimated"]) == (2, True)


def serving_tasks() -> list[asyncio.Task[Any]]:
    """The server's tasks, one a request: what it cancels when it must end."""
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "").endswith("run_asgi")
    ]


@pytest.mark.parametrize("when", ["waiting for a stream", "in a stream", "waiting for an answer"])
async def test_the_servers_task_is_cancelled(world: World, provider: Provider, when: str) -> None:
    """As if the client had left, however often it is cancelled."""
    await world.funded()
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        if when == "in a stream":
            await asked.begin()
            await asked.text("one", "two")
            await asked.gone.wait()
        elif when == "waiting for a stream":
            await asked.gone.wait()
        else:
            await go_on.wait()
            await asked.answer(chat_answer())

    provider.script = script
    raw = await open_stream(world, stream=when != "waiting for an answer")
    await asked_once(provider)
    await something_held(world)
    if when == "in a stream":
        await read_until(raw, b"two")
    assert serving_tasks()
    for _ in range(3):
        for task in serving_tasks():
            task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    await nothing_open(world)
    raw.close()
    if when == "waiting for a stream":
        await nothing_charged(world)
    else:
        charge = await only_charge(world)
        assert charge["completion_tokens"] == (2 if when == "in a stream" else 20)

    async def nothing_runs() -> bool:
        return len(world.app.state.services.tracker) == 0

    await eventually(nothing_runs, what="the end of all work")


async def test_who_did_not_ask_for_usage_gets_the_upstreams_bytes(
    world: World, provider: Provider
) -> None:
    """What came for our own sake is taken out again, and nothing else is touched."""
    await world.funded()
    pieces = [
        b": a comment\n\n",
        b'data: {"id":"1","odd":1.50,"choices":[{"index":0,"delta":{"content":"h\\u00e9"}}]}\n\n',
        b"event: x\r\n"
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}], "y":1E5}\r\n\r\n',
    ]

    async def script(asked: Asked) -> None:
        await asked.begin()
        for piece in pieces:
            await asked.chunk(piece)
        assert asked.body["stream_options"] == {"include_usage": True, "other": 1}
        await asked.chunk(b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n")
        await asked.end()

    provider.script = script
    response = await world.client.post(
        CHAT, json={**HELLO, "stream_options": {"other": 1}}, headers=world.auth("ann")
    )
    assert response.content == b"".join(pieces) + b"data: [DONE]\n\n"
    assert (await only_charge(world))["completion_tokens"] == 20
