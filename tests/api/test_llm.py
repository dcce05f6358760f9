"""The LLM route on real sockets: what is held, what is charged, and what never reaches the
upstream.
"""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from support.waiting import eventually
from support.world import World

from taximeter.settler.books.watermarks import count_shards


def credits(text: str) -> int:
    """Millicredits of a header."""
    return int(Decimal(text) * 1000)


async def test_a_completion_is_charged_by_its_usage(world: World) -> None:
    await world.funded(credits=50.0)
    response = await world.chat(power_level="balanced", task_type="chat")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["system_fingerprint"] == "simulated"
    cost = credits(response.headers["X-Cost-Incurred"])
    assert cost > 0
    assert credits(response.headers["X-Credits-Remaining"]) == 50_000 - cost
    assert response.headers["X-Provider-Used"] == "simulated"
    balance = await world.balance()
    assert (balance.available, balance.held) == (50_000 - cost, 0)
    (charge,) = await world.charges()
    assert charge["credits_used"] == cost
    assert charge["request_id"] == response.headers["X-Request-Id"]
    assert (charge["service_type"], charge["service_name"]) == ("llm_inference", "gpt-4o-mini")
    metadata = json.loads(charge["metadata"])
    assert metadata["tokens_used"] == body["usage"]["total_tokens"]
    assert metadata["power_level"] == "balanced"
    assert metadata["task_type"] == "chat"
    assert metadata["provider"] == "simulated"
    assert "estimated" not in metadata
    await world.prove()


async def test_the_hold_covers_the_charge(world: World) -> None:
    await world.funded()
    for text in ("x", "word " * 500, "漢字" * 300):
        response = await world.chat(messages=[{"role": "user", "content": text}])
        assert response.status_code == 200
    for charge in await world.charges():
        assert charge["reserved"] >= charge["credits_used"] > 0


async def test_402_before_any_upstream_call(world: World) -> None:
    await world.funded(credits=0.01)
    response = await world.chat()
    assert response.status_code == 402
    body = response.json()
    assert body["detail"].startswith("Insufficient organization credits. Need 0.")
    assert body["detail"].endswith(", have 0.010")
    assert body["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert world.upstream_calls == 0
    assert (await world.balance()).available == 10


async def test_402_without_any_allocation(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    response = await world.chat("boss")
    assert response.status_code == 402
    assert response.json()["detail"].endswith("have 0.000")
    assert world.upstream_calls == 0


async def test_429_while_only_holds_are_in_the_way(world: World) -> None:
    """OpenAI's clients retry 429 and not 402: a busy account must not look like an empty one."""
    await world.funded(credits=0.3)
    slow = asyncio.create_task(world.chat(simulate={"latency_s": 1.5}))

    async def is_held() -> bool:
        return (await world.balance()).held > 0

    await eventually(is_held)
    response = await world.chat()
    assert response.status_code == 429, response.text
    assert response.headers["Retry-After"].isdigit()
    assert response.json()["error"]["details"]["reason"] == "credits_held"
    assert (await slow).status_code == 200
    assert world.upstream_calls == 1


async def test_429_with_as_many_open_as_one_user_may_have(world: World) -> None:
    await world.funded()
    for shard in range(await count_shards(world.stores.pool)):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "open_holds_max", 1)
    slow = asyncio.create_task(world.chat(simulate={"latency_s": 1.5}))

    async def is_held() -> bool:
        return (await world.balance()).held > 0

    await eventually(is_held)
    response = await world.chat()
    assert response.status_code == 429, response.text
    assert response.headers["Retry-After"].isdigit()
    details = response.json()["error"]["details"]
    assert details == {"reason": "too_many_holds", "open_holds_max": 1}
    assert (await slow).status_code == 200
    assert (await world.chat()).status_code == 200


async def test_a_used_key_never_calls_upstream_again(world: World) -> None:
    await world.funded()
    headers = {"Idempotency-Key": "once"}
    first = await world.chat(headers=headers)
    assert first.status_code == 200
    again = await world.chat(headers=headers)
    other = await world.chat(headers=headers, messages=[{"role": "user", "content": "other" * 9}])
    for response in (again, other):
        assert response.status_code == 409
        details = response.json()["error"]["details"]
        assert details["state"] == "committed"
        assert response.headers["X-Cost-Incurred"] == first.headers["X-Cost-Incurred"]
        assert response.headers["X-Request-Id"] == first.headers["X-Request-Id"]
    assert world.upstream_calls == 1
    assert len(await world.charges()) == 1


async def test_a_used_key_is_known_after_redis_has_forgotten_it(world: World) -> None:
    await world.funded()
    headers = {"Idempotency-Key": "old"}
    first = await world.chat(headers=headers)
    await world.settle()
    for shard in range(2):
        keys = world.stores.keys(shard)
        await world.stores.redis.delete(keys.outcomes, keys.outcomes_old)
    again = await world.chat(headers=headers)
    assert again.status_code == 409
    assert again.headers["X-Cost-Incurred"] == first.headers["X-Cost-Incurred"]
    assert world.upstream_calls == 1


async def test_one_key_of_two_users_is_two_requests(world: World) -> None:
    await world.funded()
    await world.add_member("bob")
    assert (await world.allocate("bob", 5.0)).status_code == 200
    await world.settle()
    headers = {"Idempotency-Key": "same"}
    assert (await world.chat("ann", headers=headers)).status_code == 200
    assert (await world.chat("bob", headers=headers)).status_code == 200


async def test_many_at_once_never_spend_more_than_there_is(world: World) -> None:
    await world.funded(credits=1.0)
    responses = await asyncio.gather(
        *(world.chat(model="gpt-4o", max_tokens=100) for _ in range(60))
    )
    paid = [response for response in responses if response.status_code == 200]
    assert {response.status_code for response in responses} <= {200, 402, 429}
    assert paid
    assert len(paid) < 60
    assert world.upstream_calls == len(paid)
    charges = await world.charges()
    assert len(charges) == len(paid)
    spent = sum(charge["credits_used"] for charge in charges)
    assert spent <= 1000
    assert (await world.balance()).available == 1000 - spent
    await world.prove()


FAILURES: list[Any] = [(500, 502), (503, 502), (401, 502), (429, 429), (400, 400), (422, 422)]


async def test_an_upstream_that_fails_costs_nothing(world: World) -> None:
    await world.funded()
    for upstream_status, status in FAILURES:
        for stream in (False, True):
            response = await world.chat(stream=stream, simulate={"status": upstream_status})
            assert response.status_code == status
            assert set(response.json()) == {"error", "detail"}
            assert response.headers["X-Request-Id"]
        balance = await world.balance()
        assert (balance.available, balance.held) == (50_000, 0)
        assert await world.charges() == []


@pytest.mark.parametrize("api_options", [{"upstream_base_url": "http://127.0.0.1:1/v1"}])
async def test_an_upstream_that_is_not_there_costs_nothing(world: World) -> None:
    await world.funded()
    response = await world.chat()
    assert response.status_code == 502
    assert (await world.balance()).available == 50_000


@pytest.mark.parametrize("api_options", [{"upstream_timeout_s": 0.2}])
async def test_an_upstream_that_is_silent_is_a_504(world: World) -> None:
    await world.funded()
    response = await world.chat(simulate={"latency_s": 0.8})
    assert response.status_code == 504
    balance = await world.balance()
    assert (balance.available, balance.held) == (50_000, 0)


async def test_missing_usage_is_charged_by_count_and_marked(world: World) -> None:
    await world.funded()
    response = await world.chat(simulate={"usage": False})
    assert response.status_code == 200
    (charge,) = await world.charges()
    assert charge["credits_used"] > 0
    assert json.loads(charge["metadata"])["estimated"] is True


BAD_BODIES: list[Any] = [
    ({"model": None}, "model"),
    ({"model": "x" * 201}, "model"),
    ({"model": "gpt\u00e9"}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": [1]}, "stream_options"),
    ({"api_base": "http://evil.example"}, "api_base"),
    ({"base_url": "http://evil.example"}, "base_url"),
    ({"api_key": "x"}, "api_key"),
    ({"power_level": "x" * 65}, "power_level"),
]


async def test_a_bad_body_is_refused_by_name(world: World) -> None:
    await world.funded()
    for change, field in BAD_BODIES:
        response = await world.chat(**change)
        assert response.status_code == 422
        assert response.json()["error"]["details"]["fields"][0]["field"] == field
        assert world.upstream_calls == 0


BAD_BYTES: list[Any] = [b"", b"[]", b"{", b'{"model": NaN}', b"[" * 100_000, b"\xff"]


async def test_bytes_that_are_no_request_are_refused(world: World) -> None:
    await world.funded()
    for content in BAD_BYTES:
        response = await world.client.post(
            "/api/v1/llm/chat/completions", content=content, headers=world.auth("ann")
        )
        assert response.status_code == 422
        assert response.json()["detail"]


async def test_an_unpriced_model_is_refused_by_name(world: World) -> None:
    await world.funded()
    response = await world.chat(model="nobody-sells-this")
    assert response.status_code == 400
    assert "nobody-sells-this" in response.json()["detail"]
    assert response.json()["error"]["code"] == "UNPRICED_MODEL"
    assert world.upstream_calls == 0


async def test_a_service_tier_without_a_price_is_refused_by_name(world: World) -> None:
    """Charged at the plain price, it could cost more than is paid for it."""
    await world.funded()
    response = await world.chat(service_tier="turbo")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["details"]["service_tier"]) == ("UNPRICED_MODEL", "turbo")
    assert "Service tier 'turbo' of model" in response.json()["detail"]
    assert world.upstream_calls == 0
    assert (await world.chat(service_tier="default")).status_code == 200


async def test_who_pays(world: World) -> None:
    """The header, else the oldest membership; a foreign organisation does not exist."""
    await world.funded("ann", 10.0, "first")
    await world.funded("ann", 10.0, "second")
    assert (await world.subscribe("foreign")).status_code == 200
    assert (await world.chat()).status_code == 200
    assert (await world.chat(headers={"X-Org-Id": "second"})).status_code == 200
    assert (await world.chat(headers={"X-Org-Id": "foreign"})).status_code == 404
    assert (await world.chat(headers={"X-Org-Id": "nowhere"})).status_code == 404
    assert len(await world.charges("first")) == 1
    assert len(await world.charges("second")) == 1
    assert (await world.chat("stranger")).status_code == 403


async def test_a_request_without_a_session_is_refused(world: World) -> None:
    for path in ("/api/v1/llm/chat/completions", "/v1/chat/completions"):
        response = await world.client.post(path, json={"model": "gpt-4o", "messages": []})
        assert response.status_code == 401
    cookie = {"Cookie": f"session_token={world.token('ann')}"}
    response = await world.client.post("/v1/chat/completions", json={}, headers=cookie)
    assert response.status_code == 401


@pytest.mark.timeouts(take_timeout_s=1.0)
async def test_a_fenced_shard_answers_503_with_a_reason(world: World) -> None:
    await world.funded()
    while (await world.chat()).status_code != 200:
        assert world.upstream_calls == 0, "a slow machine was late with the hold"
    redis, metas = world.stores.redis, [world.stores.keys(shard).meta for shard in range(2)]
    epochs = [await redis.hget(meta, "epoch") for meta in metas]
    for meta in metas:
        await redis.hset(meta, "epoch", "fenced")
    response = await world.chat()
    while response.json()["error"]["details"]["reason"] != "fenced":
        assert response.status_code == 503, "a slow machine was late with the question"
        response = await world.chat()
    for meta, epoch in zip(metas, epochs, strict=True):
        await redis.hset(meta, "epoch", epoch)
    assert response.status_code == 503
    assert response.json()["error"]["details"]["reason"] == "fenced"
    assert world.upstream_calls == 1


@pytest.mark.parametrize("api_options", [{"llm_body_bytes_max": 2000}])
async def test_a_body_over_the_limit_is_refused(world: World) -> None:
    await world.funded()
    response = await world.chat(messages=[{"role": "user", "content": "x" * 3000}])
    assert response.status_code == 413
    assert "2000" in response.json()["detail"]

    async def pieces() -> Any:
        for _ in range(30):
            yield b" " * 100

    response = await world.client.post(
        "/v1/chat/completions", content=pieces(), headers=world.auth("ann")
    )
    assert response.status_code == 413
