"""Connections, time-outs and retries towards an upstream have limits, each on its own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from support.provider import USAGE, Asked, Provider, chat_answer
from support.waiting import eventually
from support.world import World


async def whole(asked: Asked) -> None:
    await asked.answer(chat_answer())


@contextmanager
def takes_no_connection() -> Iterator[str]:
    """A listening port whose queue is full: connecting to it waits for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for one in waiting:
                one.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(whole).serving() as opened:
        yield opened


@pytest.fixture
def dead() -> Iterator[str]:
    with takes_no_connection() as url:
        yield url


@pytest.fixture
def api_options(
    provider: Provider, dead: str, tmp_path: Path, request: pytest.FixtureRequest
) -> dict[str, Any]:
    own: dict[str, Any] = getattr(request, "param", {})
    gone = {"connect_timeout_s": 0.2, "retries": 0, "rest_after_failures": 2, "rest_s": 600.0}
    document = {
        "upstreams": [
            {"name": "dead", "base_url": dead, **gone},
            {"name": "alive", "base_url": provider.url, **own},
        ],
        "routes": [
            {"models": ["gpt-4o-mini"], "targets": [{"upstream": "dead"}, {"upstream": "alive"}]},
            {"models": ["gpt-4o"], "targets": [{"upstream": "alive"}]},
        ],
    }
    path = tmp_path / "upstreams.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return {"upstream_base_url": None, "upstream_name": None, "upstreams_file": path}


async def test_connecting_is_not_waited_for_again_and_again(
    world: World, provider: Provider
) -> None:
    """Two requests wait for the dead one, and go on to the next; the third does not ask it."""
    await world.funded()
    dead = world.app.state.services.router.upstreams["dead"]
    for _ in range(2):
        assert not dead.rest.is_resting
        assert (await world.chat()).headers["X-Provider-Used"] == "alive"
    assert dead.rest.is_resting
    assert (await world.chat()).headers["X-Provider-Used"] == "alive"
    assert len(provider.asked) == 3


@pytest.mark.parametrize("api_options", [{"connections_max": 2}], indirect=True)
async def test_no_more_connections_than_allowed(world: World, provider: Provider) -> None:
    """Eight callers at once, of whom six wait; those who wait are served later."""
    await world.funded()
    upstreams = world.app.state.services.router.upstreams.values()
    running, go = 0, asyncio.Event()

    async def script(asked: Asked) -> None:
        nonlocal running
        running += 1
        await go.wait()
        await asked.answer(chat_answer())

    async def all_wait_for_something() -> bool:
        counts = sum((Counter(one.connections) for one in upstreams), Counter[str]())
        return running == counts["used"] and counts["used"] + counts["waiting"] == 8

    provider.script = script
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(world.chat(model="gpt-4o")) for _ in range(8)]
        await eventually(all_wait_for_something)
        found = running
        go.set()
    assert {call.result().status_code for call in calls} == {200}
    assert found == 2


DRIPPING: Any = {"silence_timeout_s": 30.0, "answer_timeout_s": 0.6}


@pytest.mark.parametrize("api_options", [DRIPPING], indirect=True)
@pytest.mark.parametrize("stream", [True, False], ids=("stream", "whole"))
async def test_an_answer_that_never_ends(world: World, provider: Provider, stream: bool) -> None:
    """Never silent and never done: its whole time has a limit too."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        while not asked.gone.is_set():
            await asked.text("x")
            await asyncio.sleep(0.02)

    provider.script = script
    response = await world.chat(model="gpt-4o", stream=stream)
    assert "did not answer in time" in response.text
    charges = await world.charges()
    if not stream:
        assert (response.status_code, charges) == (504, [])
        return
    [charge] = charges
    metadata = json.loads(charge["metadata"])
    assert metadata["completion_tokens"] == response.text.count('"content": "x"') > 3
    assert metadata["estimated"] is True
    await world.prove()


@pytest.mark.parametrize("key", [True, False], ids=("with a key", "without"))
async def test_openais_client_repeats_only_what_may_be(
    world: World, provider: Provider, key: bool
) -> None:
    """It repeats a 500 by itself; with an Idempotency-Key it is told that this is of no use."""
    await world.funded()

    async def script(asked: Asked) -> None:
        if len(provider.asked) == 1:
            await asked.answer({"error": {"message": "broken"}}, "500 X")
        else:
            await asked.answer(chat_answer(usage=USAGE))

    provider.script = script
    headers = {"Idempotency-Key": "order-1"} if key else {}
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=2
    ) as client:
        asking = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "x"}], extra_headers=headers
        )
        if key:
            with pytest.raises(openai.InternalServerError):
                await asking
        else:
            assert (await asking).choices[0].message.content == "Hello"
    assert len(provider.asked) == (1 if key else 2)
    assert len(await world.charges()) == (0 if key else 1)
