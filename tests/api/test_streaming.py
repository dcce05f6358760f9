"""Streams: relayed as they come, charged by what they report or by what was delivered, whoever
leaves.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.callers import abort, nothing_open, open_stream, read_until, something_held
from support.waiting import eventually
from support.world import CHAT, World


def documents(text: str) -> list[dict[str, Any]]:
    """The JSON of every event but the last, which must be the end."""
    datas = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content", "") for event in events for choice in event["choices"]
    )


async def test_a_stream_is_the_same_answer_and_the_same_cost(world: World) -> None:
    await world.funded()
    whole = await world.chat()
    streamed = await world.chat(stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = documents(streamed.text)
    assert text_of(events) == whole.json()["choices"][0]["message"]["content"]
    assert "usage" not in streamed.text, "the caller did not ask for it"
    first, second = await world.charges()
    assert first["credits_used"] == second["credits_used"]
    assert json.loads(second["metadata"])["stream"] is True
    assert "estimated" not in json.loads(second["metadata"])
    await world.prove()


async def test_usage_that_was_asked_for_tells_the_cost(world: World) -> None:
    await world.funded()
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    events = documents(response.text)
    usage = events[-1]["usage"]
    assert events[-1]["choices"] == []
    (charge,) = await world.charges()
    assert round(usage["cost_incurred"] * 1000) == charge["credits_used"]
    assert round(usage["credits_remaining"] * 1000) == 50_000 - charge["credits_used"]
    assert usage["completion_tokens"] > 0
    assert all("usage" in event for event in events[:-1]), "these are passed on as they came"


async def test_chunks_are_not_kept_back(world: World) -> None:
    """The first token arrives while the upstream is still in the middle of its answer."""
    await world.funded()
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "simulate": {"chunk_delay_s": 0.05},
    }
    loop = asyncio.get_running_loop()
    async with world.client.stream("POST", CHAT, json=body, headers=world.auth("ann")) as response:
        arrivals = [loop.time() async for _ in response.aiter_bytes()]
    assert len(arrivals) > 10
    # More than half of the stream was still to come when the first part was here.
    assert arrivals[-1] - arrivals[0] > (len(arrivals) - 5) * 0.05 / 2


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}])
async def test_a_client_that_leaves_pays_what_it_got(world: World) -> None:
    """A plain `finally` would be cancelled again here, and the delivered tokens would be free."""
    await world.funded()
    raw = await open_stream(world, simulate={"chunk_delay_s": 0.03}, max_tokens=60)
    got = await read_until(raw, b'"content":"', times=6)
    abort(raw)
    await nothing_open(world)
    (charge,) = await world.charges()
    metadata = json.loads(charge["metadata"])
    delivered = got.count(b'"content":"') - 1  # The first chunk has a role, and no text.
    assert metadata["estimated"] is True
    assert delivered <= metadata["completion_tokens"] < 60
    assert charge["credits_used"] > 0
    assert (await world.balance()).available == 50_000 - charge["credits_used"]
    await world.prove()


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}])
async def test_a_client_that_leaves_stops_the_upstream(world: World) -> None:
    await world.funded()
    raw = await open_stream(world, simulate={"chunk_delay_s": 0.5})
    await read_until(raw, b"\r\n\r\n")
    abort(raw)
    # The whole stream would take more than eight seconds.
    await nothing_open(world, within_s=60)

    async def no_connection_open() -> bool:
        return len(world.app.state.services.tracker) == 0

    await eventually(no_connection_open, what="the end of all work")


async def test_a_client_that_leaves_before_the_first_token_pays_the_answer(world: World) -> None:
    """The provider works for it, and is paid by us."""
    await world.funded()
    raw = await open_stream(world, simulate={"latency_s": 0.4}, max_tokens=20)
    await something_held(world)
    abort(raw)
    await nothing_open(world)
    (charge,) = await world.charges()
    metadata = json.loads(charge["metadata"])
    assert (metadata["completion_tokens"], metadata.get("estimated")) == (20, None)
    await world.prove()


async def test_an_upstream_that_breaks_off_is_charged_by_what_came(world: World) -> None:
    await world.funded()
    response = await world.chat(stream=True, simulate={"break_after": 7})
    events = [part for part in response.text.strip().split("\n\n") if part]
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    last = json.loads(events[-1].removeprefix("data: "))
    assert last["error"]["code"] == "UPSTREAM_ERROR"
    (charge,) = await world.charges()
    assert json.loads(charge["metadata"])["completion_tokens"] == 7
    assert json.loads(charge["metadata"])["estimated"] is True
    assert (await world.balance()).held == 0
    await world.prove()


async def test_an_upstream_that_breaks_off_before_any_token_costs_nothing(world: World) -> None:
    await world.funded()
    await world.chat(stream=True, simulate={"break_after": 0})
    assert await world.charges() == []
    assert (await world.balance()).available == 50_000


async def test_a_stream_without_usage_is_charged_by_count(world: World) -> None:
    await world.funded()
    with_usage = await world.chat(stream=True)
    response = await world.chat(stream=True, simulate={"usage": False})
    assert text_of(documents(response.text))
    first, second = await world.charges()
    assert json.loads(second["metadata"])["estimated"] is True
    one, two = (json.loads(charge["metadata"])["completion_tokens"] for charge in (first, second))
    assert two > 0
    assert text_of(documents(with_usage.text)), one


@pytest.mark.parametrize("api_options", [{"hold_ttl_s": 0.3}])
async def test_a_stream_longer_than_its_hold_stays_held(world: World) -> None:
    """Heartbeats keep the hold open, and tell what is owed if this process should die."""
    await world.funded()
    raw = await open_stream(world, simulate={"chunk_delay_s": 0.05}, max_tokens=40)
    keys = [world.stores.keys(shard) for shard in range(2)]

    async def has_progress() -> bool:
        for shard in keys:
            for record in (await world.stores.redis.hgetall(shard.holds)).values():
                if int(record.split(b"\t")[2]) > 0:
                    return True
        return False

    await eventually(has_progress, what="progress in the hold")
    await read_until(raw, b"[DONE]")
    raw.close()
    await nothing_open(world)
    (charge,) = await world.charges()
    assert charge["late"] is False
    assert "estimated" not in json.loads(charge["metadata"])
    await world.prove()


async def test_several_choices_are_all_charged(world: World) -> None:
    await world.funded()
    response = await world.chat(stream=True, n=3)
    indexes = {choice["index"] for event in documents(response.text) for choice in event["choices"]}
    assert indexes == {0, 1, 2}
    (charge,) = await world.charges()
    assert charge["reserved"] >= charge["credits_used"] > 0
