"""What a gateway does with the sidecar when all is well."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller
from support.waiting import eventually

from taximeter.meter import Meter, MeterSettings
from taximeter.meter.pricing import Pricer


@pytest.fixture
async def meter(redis_url: str, shard: ScriptedShard) -> AsyncIterator[Meter]:
    """One that gives up on no store that is only slow: here all is well, however busy the machine
    is. (With the defaults, a stall of 2 s is a 503 for those who wait.)
    """
    patient = MeterSettings(take_timeout_s=60.0, resolve_timeout_s=60.0)
    async with await Meter.connect(redis_url, settings=patient) as made:
        yield made


async def test_reserve_then_commit(caller: Caller, shard: ScriptedShard) -> None:
    usage = {"service_type": "llm_inference", "service_name": "gpt", "metadata": {"t": 0.1}}
    assert await caller.ok("reserve", request_id="r1", amount_credits=0.5) == {
        "request_id": "r1",
        "state": "open",
        "reserved_millicredits": 500,
        "charged_millicredits": 0,
        "available_millicredits": FUNDS - 500,
        "held_millicredits": 500,
        "replayed": False,
        "late": False,
    }
    assert await caller.ok("commit", request_id="r1", amount_millicredits=120, usage=usage) == {
        "request_id": "r1",
        "state": "committed",
        "charged_millicredits": 120,
        "available_millicredits": FUNDS - 120,
        "held_millicredits": 0,
        "replayed": False,
        "late": False,
    }
    assert await caller.balance() == (FUNDS - 120, 0)
    [event] = await shard.events()
    assert event[1:6] == ["commit", "acme/ann", "acme/r1", "120", "500"]
    assert json.loads(event[7]) == {"type": "llm_inference", "name": "gpt", "meta": {"t": 0.1}}


async def test_release_gives_everything_back(caller: Caller) -> None:
    await caller.ok("reserve", request_id="r1", amount_credits=1)
    answer = await caller.ok("release", request_id="r1")
    assert (answer["state"], answer["charged_millicredits"]) == ("released", 0)
    assert await caller.balance() == (FUNDS, 0)


async def test_charge_needs_no_hold_and_no_id(caller: Caller) -> None:
    first = await caller.ok("charge", amount_millicredits=7)
    second = await caller.ok("charge", amount_millicredits=7)
    assert first["state"] == "charged"
    assert first["request_id"] != second["request_id"]
    assert await caller.balance() == (FUNDS - 14, 0)


async def test_touch_records_what_an_expiry_charges(caller: Caller, shard: ScriptedShard) -> None:
    await caller.ok("reserve", request_id="r1", amount_credits=1, ttl_s=30)
    assert (await caller.ok("touch", request_id="r1", ttl_s=60.5))["state"] == "open"
    await caller.ok("touch", request_id="r1", amount_credits="0.25")
    await shard.overdue("r1", org="acme")
    await shard.sweep()
    assert (await caller.lookup("r1")).json()["state"] == "expired"
    assert await caller.balance() == (FUNDS - 250, 0)


async def test_a_late_commit_says_so(caller: Caller, shard: ScriptedShard) -> None:
    await caller.ok("reserve", request_id="r1", amount_credits=1)
    await shard.overdue("r1", org="acme")
    await shard.sweep()
    answer = await caller.ok("commit", request_id="r1", amount_millicredits=300)
    assert (answer["late"], answer["charged_millicredits"]) == (True, 300)


async def test_a_repeat_is_marked_and_charges_nothing(caller: Caller) -> None:
    await caller.ok("reserve", request_id="r1", amount_millicredits=500)
    for _ in range(2):
        commit = await caller.ok("commit", request_id="r1", amount_millicredits=20)
    assert (commit["replayed"], commit["charged_millicredits"]) == (True, 20)
    for _ in range(3):
        await caller.ok("charge", request_id="c1", amount_millicredits=5)
    assert await caller.balance() == (FUNDS - 25, 0)


async def test_a_repeated_reserve_is_refused_with_what_became_of_the_first(caller: Caller) -> None:
    """A gateway that looks at the status alone must not call upstream twice under one id."""
    body = {"request_id": "r1", "amount_millicredits": 500}
    await caller.ok("reserve", **body)
    recorded = {
        "request_id": "r1",
        "state": "open",
        "reserved_millicredits": 500,
        "charged_millicredits": 0,
        "available_millicredits": FUNDS - 500,
        "held_millicredits": 500,
    }
    assert await caller.refused("reserve", **body) == (409, "REPLAYED", recorded)
    [batched] = await caller.batch({"op": "reserve", **body})
    assert (batched["status"], batched["error"]["code"]) == (409, "REPLAYED")
    assert batched["error"]["details"] == recorded
    await caller.ok("commit", request_id="r1", amount_millicredits=20)
    ended = {
        **recorded,
        "state": "committed",
        "charged_millicredits": 20,
        "available_millicredits": FUNDS - 20,
        "held_millicredits": 0,
    }
    assert await caller.refused("reserve", **body) == (409, "REPLAYED", ended)


async def test_of_many_reserves_with_one_id_one_is_let_through(caller: Caller) -> None:
    body = {"request_id": "r1", "amount_millicredits": 500}
    answers = await asyncio.gather(*(caller.post("reserve", **body) for _ in range(30)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 29]
    assert await caller.balance() == (FUNDS - 500, 500)


async def test_a_caller_whose_answer_was_lost_finds_its_hold(caller: Caller) -> None:
    """The connection breaks after the reserve was sent: the repeat says that the hold stands, and
    whoever made that id for this one request goes on with it.
    """
    body = {"org_id": "acme", "user_id": "ann", "request_id": "r1", "amount_millicredits": 500}
    content = json.dumps(body).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", int(caller.url.rpartition(":")[2]))
    head = (
        b"POST /v1/reserve HTTP/1.1\r\nHost: sidecar\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(content)
    )
    writer.write(head + content)
    await writer.drain()
    writer.transport.abort()

    async def is_held() -> bool:
        return (await caller.lookup("r1")).status_code == 200

    await eventually(is_held, what="the hold")
    status, code, recorded = await caller.refused("reserve", **body)
    assert (status, code, recorded["state"]) == (409, "REPLAYED", "open")
    await caller.ok("touch", request_id="r1", amount_millicredits=10)
    assert (await caller.ok("commit", request_id="r1", amount_millicredits=20))["replayed"] is False
    assert await caller.balance() == (FUNDS - 20, 0)


async def test_look_up_of_every_state(caller: Caller, shard: ScriptedShard) -> None:
    for request in ("open", "committed", "released"):
        await caller.ok("reserve", request_id=request, amount_millicredits=100)
    await caller.ok("commit", request_id="committed", amount_millicredits=40)
    await caller.ok("release", request_id="released")
    await caller.ok("charge", request_id="charged", amount_millicredits=3)
    figures = {"open": (100, 0), "committed": (100, 40), "released": (100, 0), "charged": (0, 3)}

    async def look(state: str) -> None:
        answer = (await caller.lookup(state)).json()
        reserved, charged = figures[state]
        assert answer == {
            "request_id": state,
            "state": state,
            "reserved_millicredits": reserved,
            "charged_millicredits": charged,
            "available_millicredits": FUNDS - 143,
            "held_millicredits": 100,
            "replayed": False,
            "late": False,
        }

    for state in figures:
        await look(state)
    await shard.redis.hdel(shard.keys.meta, "rotated_ms")
    assert await shard.rotate() == 1
    for state in figures:
        await look(state)


@pytest.mark.parametrize(
    ("written", "millicredits"),
    [
        ("0.001", 1),
        ("0", 0),
        ("1e2", 100_000),
        ("0.1230", 123),
        ("12e-3", 12),
        ("999.999", 999_999),
        ('"0.001"', 1),
        ('"00017.50"', 17_500),
        ("0.0e9", 0),
    ],
)
async def test_credits_are_read_exactly(caller: Caller, written: str, millicredits: int) -> None:
    body = b'{"org_id":"acme","user_id":"ann","request_id":"r","amount_credits":%b}'
    response = await caller.raw("/v1/charge", body % written.encode())
    assert response.status_code == 200, response.text
    assert response.json()["charged_millicredits"] == millicredits


async def test_a_thousand_thousandths_are_one_credit(caller: Caller) -> None:
    one = {"op": "charge", "amount_credits": 0.001}
    for _ in range(2):
        results = await caller.batch(*[one] * 500)
        assert {result["status"] for result in results} == {200}
    assert await caller.balance() == (FUNDS - 1000, 0)


async def test_models_are_priced(caller: Caller, pricer: Pricer, shard: ScriptedShard) -> None:
    model = "gpt-4o-mini"
    price = pricer.price(model)
    held = await caller.ok(
        "reserve", request_id="r1", model=model, prompt_tokens=900, max_output_tokens=500, n=2
    )
    assert held["reserved_millicredits"] == price.estimate(900, 500, 2) > 0
    tokens: dict[str, Any] = {
        "prompt_tokens": 900,
        "completion_tokens": 120,
        "total_tokens": 1020,
        "prompt_tokens_details": {"cached_tokens": 512},
    }
    await caller.ok("touch", request_id="r1", model=model, tokens=tokens)
    done = await caller.ok(
        "commit", request_id="r1", model=model, tokens=tokens, usage={"metadata": {"team": "a"}}
    )
    assert done["charged_millicredits"] == price.cost(tokens) > 0
    [event] = await shard.events()
    assert json.loads(event[7]) == {
        "type": "llm_inference",
        "name": model,
        "meta": {
            "team": "a",
            "model": model,
            "price_source": "genai-prices",
            "price_version": price.version,
            "price_of": f"openai/{model}",
            "price_dated": price.metadata()["price_dated"],
            "prompt_tokens": 900,
            "completion_tokens": 120,
            "tokens_used": 1020,
        },
    }


async def test_batch_answers_in_order_and_goes_on_after_a_refusal(caller: Caller) -> None:
    results = await caller.batch(
        {"op": "reserve", "request_id": "r1", "amount_millicredits": 100},
        {"op": "charge", "amount_credits": 5000},
        {"op": "commit", "request_id": "r1", "amount_millicredits": 60},
        {"op": "release", "request_id": "unknown"},
        {"op": "touch", "request_id": "r1"},
        {"op": "pay", "request_id": "r1"},
        {"op": "charge", "amount_millicredits": 1, "user_id": "bob"},
        {"op": "charge", "amount_millicredits": 1},
    )
    assert [result["status"] for result in results] == [200, 402, 200, 404, 409, 400, 404, 200]
    assert results[0]["state"] == "open"
    assert results[1]["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert results[2]["charged_millicredits"] == 60
    assert results[5]["error"]["details"]["field"] == "op"
    assert await caller.balance() == (FUNDS - 61, 0)


async def test_charges_of_twenty_gateways_stop_at_the_balance(caller: Caller) -> None:
    """More is asked for than there is: exactly what there is gets charged."""
    amount, count = 650, 2_000
    batched: list[int] = []
    singles: list[int] = []

    async def gateway(number: int) -> None:
        one = {"op": "charge", "amount_millicredits": amount}
        for _ in range(count // (20 * 50)):
            results = await caller.batch(*[one] * 40)
            batched.extend(result["status"] for result in results)
            for _ in range(10):
                response = await caller.post("charge", amount_millicredits=amount)
                singles.append(response.status_code)

    await asyncio.gather(*map(gateway, range(20)))
    there_is = FUNDS // amount
    assert Counter(batched + singles) == {200: there_is, 402: count - there_is}
    assert await caller.balance() == (FUNDS % amount, 0)


async def test_health_and_readiness(caller: Caller) -> None:
    for path in ("/healthz", "/readyz"):
        response = await caller.client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
