"""GET /requests/{id}: cost, hold and settlement of the caller's own requests, in every state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.callers import open_stream, read_until
from support.provider import USAGE, Asked, Provider, chat_answer
from support.waiting import eventually
from support.world import BILLING, World

PLACES = ("/api/v1/llm/requests", "/v1/requests")


async def whole(asked: Asked) -> None:
    await asked.answer(chat_answer())


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(whole).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider) -> dict[str, Any]:
    return {"upstream_base_url": provider.url, "upstream_name": "scripted"}


async def look(world: World, request_id: str, user: str = "ann") -> httpx.Response:
    answers = [
        await world.client.get(f"{place}/{request_id}", headers=world.auth(user))
        for place in PLACES
    ]
    assert answers[0].content == answers[1].content
    return answers[0]


async def test_from_the_hold_to_the_ledger(world: World, provider: Provider) -> None:
    await world.funded()
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("one")
        await go_on.wait()
        await asked.text(finish="stop", usage=USAGE)
        await asked.end()

    provider.script = script
    raw = await open_stream(world)
    head = (await read_until(raw, b"one")).decode()
    request_id = head.lower().partition("x-request-id: ")[2].split("\r\n")[0]
    assert "x-credits-remaining: 50.000\r\n" in head.lower()
    assert "x-cost-incurred" not in head.lower()

    running = (await look(world, request_id)).json()
    held = (await world.balance()).held
    assert running["held_credits"] * 1000 == held > 0
    assert (running["state"], running["settlement"]) == ("open", "open")
    assert running["cost_incurred"] is None

    go_on.set()
    await read_until(raw, b"[DONE]")
    raw.close()

    async def is_charged() -> bool:
        return bool((await look(world, request_id)).json()["state"] == "committed")

    await eventually(is_charged)
    charged = (await look(world, request_id)).json()
    assert (charged["settlement"], charged["settled_at"]) == ("pending", None)
    assert charged["cost_incurred"] > 0 == charged["held_credits"]

    [booked] = await world.charges()
    settled = (await look(world, request_id)).json()
    assert settled["settlement"] == "settled"
    assert settled["cost_incurred"] * 1000 == booked["credits_used"]
    assert settled["settled_at"] is not None
    assert (settled["model"], settled["late"]) == ("gpt-4o", False)
    assert settled["usage"]["completion_tokens"] == USAGE["completion_tokens"]
    assert settled["usage"]["provider"] == "scripted"

    for shard in range(2):
        keys = world.stores.keys(shard)
        await world.stores.redis.delete(keys.outcomes, keys.outcomes_old)
    assert (await look(world, request_id)).json() == settled, "the ledger alone is enough"


async def test_a_request_that_failed_has_nothing_to_settle(
    world: World, provider: Provider
) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.answer({"error": {"message": "no"}}, "500 Broken")

    provider.script = script
    response = await world.chat()
    assert response.status_code == 502
    found = (await look(world, response.headers["X-Request-Id"])).json()
    assert (found["state"], found["settlement"]) == ("released", "none")
    assert found["cost_incurred"] == 0


async def test_what_is_not_the_callers_is_not_there(world: World) -> None:
    await world.funded()
    await world.add_member("bob")
    response = await world.chat()
    request_id = response.headers["X-Request-Id"]
    for settle in (False, True):
        if settle:
            await world.settle()
        assert (await look(world, request_id)).status_code == 200
        for user in ("bob", "boss", "stranger"):
            assert (await look(world, request_id, user)).status_code == 404
    assert (await look(world, "req-unknown")).status_code == 404
    assert (await look(world, "not%20an%20id")).status_code == 422
    assert (await world.client.get(f"{PLACES[0]}/{request_id}")).status_code == 401


async def test_the_ledger_answers_while_redis_is_closed(world: World) -> None:
    await world.funded()
    response = await world.chat()
    open_id = response.headers["X-Request-Id"]
    await world.settle()
    pending = (await world.chat()).headers["X-Request-Id"]
    metas = [world.stores.keys(shard).meta for shard in range(2)]
    epochs = [await world.stores.redis.hget(meta, "epoch") for meta in metas]
    for meta in metas:
        await world.stores.redis.hset(meta, "epoch", "fenced")
    settled, unsure = await look(world, open_id), await look(world, pending)
    for meta, epoch in zip(metas, epochs, strict=True):
        await world.stores.redis.hset(meta, "epoch", epoch)
    assert settled.json()["settlement"] == "settled"
    assert unsure.status_code == 503


async def test_an_api_key_sees_the_requests_of_its_users(world: World) -> None:
    await world.funded()
    await world.funded("ann", org="other")
    await world.add_member("bob")
    made = await world.client.post(
        f"{BILLING}/orgs/acme/keys",
        json={"name": "gateway", "operations": ["llm"]},
        headers=world.auth("boss"),
    )
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    ann, bob = {**key, "X-User-Id": "ann"}, {**key, "X-User-Id": "bob"}
    asked = await world.client.post("/v1/chat/completions", json=body, headers=ann)
    assert asked.status_code == 200, asked.text
    request_id = asked.headers["X-Request-Id"]
    elsewhere = (await world.chat(headers={"X-Org-Id": "other"})).headers["X-Request-Id"]
    for place in PLACES:
        found = await world.client.get(f"{place}/{request_id}", headers=ann)
        assert (found.status_code, found.json()["org_id"]) == (200, "acme")
        assert (await world.client.get(f"{place}/{request_id}", headers=bob)).status_code == 404
        other = await world.client.get(f"{place}/{elsewhere}", headers=ann)
        assert other.status_code == 404, "the key is of another organisation"
        assert (await world.client.get(f"{place}/{request_id}", headers=key)).status_code == 422
    assert (await world.client.get("/v1/models", headers=ann)).status_code == 200
