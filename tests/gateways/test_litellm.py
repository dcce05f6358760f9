"""LiteLLM's own proxy with our logger in it: who is let in, what is charged, what ends a hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateway import served_at
from support.litellm_proxy import LiteLLM
from support.packages import install, pip
from support.shard import ScriptedShard
from support.sidecar import FUNDS
from support.waiting import eventually

from taximeter.meter import Meter
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(600)]

MESSAGES = [{"role": "user", "content": "Say something about meters."}]


@pytest.fixture
async def sidecar(meter: Meter, pricer: Pricer, sidecar_socket: Path) -> AsyncIterator[None]:
    async with served_at(create_sidecar(meter, pricer=pricer), sidecar_socket):
        yield


@pytest.fixture
async def client(litellm: LiteLLM) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=litellm.url, timeout=60, trust_env=False) as made:
        yield made


def key(user: str = "ann", **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer sk-{user}", **headers}


async def chat(
    client: httpx.AsyncClient, user: str = "ann", model: str = "mocked", **fields: Any
) -> httpx.Response:
    headers = fields.pop("headers", {})
    body = {"model": model, "messages": MESSAGES, **fields}
    return await client.post("/v1/chat/completions", json=body, headers=key(user, **headers))


async def events(shard: ScriptedShard, count: int = 1) -> list[dict[str, Any]]:
    """The charges, once there are `count`."""

    async def are_there() -> bool:
        return len(await shard.events()) >= count

    await eventually(are_there, within_s=60, what=f"{count} charges")
    found = await shard.events()
    assert len(found) == count, found
    return [
        {
            "kind": event[1],
            "account": event[2],
            "request_id": event[3].partition("/")[2],
            "amount": int(event[4]),
            **json.loads(event[7]),
        }
        for event in found
    ]


def test_the_extra_is_installed_beside_the_proxy(litellm_python: Path) -> None:
    """The wheel resolves with its extra in the environment of the pinned proxy, and changes nothing
    there.
    """
    before = pip(litellm_python, "freeze", "--all")
    assert "litellm==" in before.stdout
    done = install(litellm_python, "taximeter[litellm]")
    assert done.returncode == 0, done.stderr
    assert pip(litellm_python, "freeze", "--all").stdout == before.stdout
    checked = pip(litellm_python, "check")
    assert checked.returncode == 0, checked.stdout


async def test_an_answer_is_charged_exactly(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard, pricer: Pricer
) -> None:
    response = await chat(client, max_tokens=50)
    assert response.status_code == 200, response.text
    price = pricer.price("gpt-4o-mini")
    cost = price.cost(response.json()["usage"])
    assert cost > 0
    [event] = await events(shard)
    assert event["kind"] == "commit"
    assert event["account"] == "acme/ann"
    assert event["amount"] == cost
    assert event["request_id"] == response.headers["x-litellm-call-id"]
    assert event["name"] == "gpt-4o-mini"
    assert event["meta"]["model_group"] == "mocked"
    assert event["meta"]["price_version"] == price.version
    assert Decimal(event["meta"]["litellm_cost_usd"]) > 0
    assert await shard.account("acme/ann") == (FUNDS - cost, 0, 1)
    assert response.headers["x-cost-incurred"] == f"{Decimal(cost) / 1000:.3f}"
    assert response.headers["x-credits-remaining"] == f"{Decimal(FUNDS - cost) / 1000:.3f}"


async def test_who_cannot_pay_is_refused_with_402(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    response = await chat(client, "poor", "dear", max_tokens=4000)
    assert response.status_code == 402
    error = response.json()["error"]
    assert error["code"] == "402"
    assert "Insufficient organization credits. Need " in error["message"]
    assert error["message"].endswith("have 0.100")
    assert error["provider_specific_fields"]["code"] == "INSUFFICIENT_CREDITS"
    assert response.headers["x-credits-remaining"] == "0.100"
    assert "retry-after" not in response.headers
    assert await shard.account("acme/poor") == (100, 0, 1)
    assert await shard.events() == []


async def test_a_user_without_an_account_is_refused_with_402(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    await shard.redis.hdel(shard.keys.accounts, "acme/bob")
    response = await chat(client, "bob")
    assert response.status_code == 402
    assert "No credits are allocated" in response.json()["error"]["message"]


async def test_only_holds_in_the_way_is_429(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard, meter: Meter
) -> None:
    await meter.reserve("acme", "ann", FUNDS, request_id="other")
    response = await chat(client)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    await meter.release("acme", "ann", "other")
    assert (await chat(client)).status_code == 200


async def test_who_pays_is_read_from_key_or_team(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    assert (await chat(client, "bob")).status_code == 200
    [event] = await events(shard)
    assert event["account"] == "acme/bob"
    response = await chat(client, "nobody")
    assert response.status_code == 403
    assert "belongs to no organisation" in response.json()["error"]["message"]


async def test_nothing_passes_without_a_price(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    response = await chat(client, model="unpriced")
    assert response.status_code == 400
    assert "no known price" in response.json()["error"]["message"]
    body = {"model": "pictures", "prompt": "a meter"}
    response = await client.post("/v1/images/generations", json=body, headers=key())
    assert response.status_code == 403
    assert "cannot be charged" in response.json()["error"]["message"]
    assert (await client.get("/v1/models", headers=key())).status_code == 200
    assert await shard.events() == []


async def test_a_caller_cannot_name_a_hold(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    """What the caller writes into the metadata is not what our mark is read from."""
    marked = {"taximeter_call": "0" * 32}
    response = await chat(client, metadata=marked, litellm_metadata=marked)
    assert response.status_code == 200, response.text
    assert len(await events(shard)) == 1
    assert (await shard.account("acme/ann"))[1] == 0


async def test_embeddings_are_charged(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard, pricer: Pricer
) -> None:
    body = {"model": "vectors", "input": ["a text about meters " * 200]}
    response = await client.post("/v1/embeddings", json=body, headers=key())
    assert response.status_code == 200, response.text
    [event] = await events(shard)
    used = response.json()["usage"]["prompt_tokens"]
    usage = {"prompt_tokens": used, "completion_tokens": 0}
    assert used > 0
    assert event["amount"] == pricer.price("text-embedding-3-small").cost(usage)
    assert await shard.account("acme/ann") == (FUNDS - event["amount"], 0, 1)


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_stream_is_charged_once(
    client: httpx.AsyncClient,
    sidecar: None,
    shard: ScriptedShard,
    pricer: Pricer,
    include_usage: bool,
) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    body = {"model": "simulated", "messages": MESSAGES, "stream": True, "max_tokens": 2000}
    lines = []
    async with client.stream(
        "POST", "/v1/chat/completions", json={**body, **options}, headers=key()
    ) as response:
        assert response.status_code == 200
        left = int(Decimal(response.headers["x-credits-remaining"]) * 1000)
        assert FUNDS - 10_000 < left < FUNDS, "the hold is out of what is left"
        lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
    usages = [usage for line in lines if (usage := json.loads(line[6:]).get("usage"))]
    assert bool(usages) == include_usage
    [event] = await events(shard)
    if include_usage:
        assert event["amount"] == pricer.price("gpt-4o-mini").cost(usages[-1])
    assert event["meta"]["completion_tokens"] >= 16
    assert await shard.account("acme/ann") == (FUNDS - event["amount"], 0, 1)


async def test_a_caller_who_leaves_pays_what_was_delivered(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    body = {
        **{"model": "simulated", "messages": MESSAGES, "stream": True, "max_tokens": 5000},
        "simulate": {"chunk_delay_s": 0.1},
    }
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=key()) as response:
        assert response.status_code == 200, await response.aread()
        seen = 0
        async for line in response.aiter_lines():
            seen += line.startswith("data: {")
            if seen == 5:
                break

    async def is_over() -> bool:
        return (await shard.account("acme/ann"))[1] == 0

    await eventually(is_over, within_s=60, what="the end of the hold")
    [event] = await events(shard)
    assert event["kind"] == "commit"
    assert event["amount"] > 0
    assert 3 <= event["meta"]["completion_tokens"] <= 30


async def test_a_stream_that_breaks_pays_what_was_delivered(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    body = {
        **{"model": "simulated", "messages": MESSAGES, "stream": True},
        # Slowly: what arrives together with the break is never delivered.
        "simulate": {"break_after": 6, "chunk_delay_s": 0.2},
    }
    response = await client.post("/v1/chat/completions", json=body, headers=key())
    assert '"error"' in response.text
    [event] = await events(shard)
    assert event["amount"] > 0
    assert 1 <= event["meta"]["completion_tokens"] <= 12
    assert (await shard.account("acme/ann"))[1] == 0


async def test_a_failure_is_not_charged(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    response = await chat(client, model="simulated", simulate={"status": 500})
    assert response.status_code == 500
    assert response.headers["x-credits-remaining"] == "1000.000"
    assert await shard.account("acme/ann") == (FUNDS, 0, 1)
    assert await shard.events() == []


async def test_a_fallback_is_charged_once_at_the_price_of_who_answered(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard, pricer: Pricer
) -> None:
    response = await chat(client, model="broken", max_tokens=100)
    assert response.status_code == 200, response.text
    [event] = await events(shard)
    assert event["name"] == "gpt-4o"
    assert event["amount"] == pricer.price("gpt-4o").cost(response.json()["usage"])
    assert (await shard.account("acme/ann"))[1] == 0


async def test_a_call_id_is_charged_once_and_never_opens_the_model_twice(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    mine = {"x-litellm-call-id": "mine-1"}
    slow = asyncio.create_task(
        chat(client, model="simulated", simulate={"latency_s": 2}, headers=mine)
    )

    async def is_held() -> bool:
        return (await shard.account("acme/ann"))[1] > 0

    await eventually(is_held, what="the hold")
    # The second one is refused, and its failure does not end the hold of the first.
    assert (await chat(client, headers=mine)).status_code == 409
    assert await is_held()
    assert (await slow).status_code == 200
    assert (await chat(client, headers=mine)).status_code == 409
    [event] = await events(shard)
    assert event["request_id"] == "mine-1"


async def test_many_at_once_spend_no_more_than_there_is(
    client: httpx.AsyncClient, sidecar: None, shard: ScriptedShard
) -> None:
    answers = await asyncio.gather(
        *(chat(client, "poor", "mocked", max_tokens=200) for _ in range(30))
    )
    statuses = {response.status_code for response in answers}
    assert 200 in statuses
    assert statuses <= {200, 402, 429}
    available, held, _ = await shard.account("acme/poor")
    charges = sum(event["amount"] for event in await events(shard, len(await shard.events())))
    assert held == 0
    assert available == 100 - charges >= 0


async def test_without_a_sidecar_nobody_gets_in(
    client: httpx.AsyncClient, sidecar_socket: Path, shard: ScriptedShard
) -> None:
    response = await chat(client)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "Credits cannot be checked" in response.json()["error"]["message"]


async def test_a_charge_waits_for_the_sidecar(
    client: httpx.AsyncClient,
    meter: Meter,
    pricer: Pricer,
    sidecar_socket: Path,
    shard: ScriptedShard,
) -> None:
    """The sidecar goes while the model works: the answer goes out, and the charge is made later."""
    async with served_at(create_sidecar(meter, pricer=pricer), sidecar_socket):
        slow = asyncio.create_task(chat(client, model="simulated", simulate={"latency_s": 3}))

        async def is_held() -> bool:
            return (await shard.account("acme/ann"))[1] > 0

        await eventually(is_held, what="the hold")
    response = await slow
    assert response.status_code == 200
    assert await shard.events() == []
    async with served_at(create_sidecar(meter, pricer=pricer), sidecar_socket):
        [event] = await events(shard)
    assert event["amount"] == pricer.price("gpt-4o-mini").cost(response.json()["usage"])


@pytest.mark.parametrize(
    ("model", "identity"),
    [("hosted", "groq/openai/gpt-oss-120b"), ("deployed", "azure/gpt-4o-mini")],
)
async def test_the_price_is_that_of_the_deployments_host(
    client: httpx.AsyncClient,
    sidecar: None,
    shard: ScriptedShard,
    pricer: Pricer,
    model: str,
    identity: str,
) -> None:
    response = await chat(client, model=model)
    assert response.status_code == 200, response.text
    [event] = await events(shard)
    assert event["meta"]["price_of"] == identity
    assert event["amount"] == pricer.price(identity).cost(response.json()["usage"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Say something about meters.", "max_tokens": 50}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50}),
        ("/v1/responses", {"input": "Say something about meters.", "max_output_tokens": 50}),
    ],
)
async def test_other_ways_to_ask_are_charged_as_well(
    client: httpx.AsyncClient,
    sidecar: None,
    shard: ScriptedShard,
    pricer: Pricer,
    path: str,
    body: dict[str, Any],
    stream: bool,
) -> None:
    # LiteLLM's own mock cannot stream a response of that API.
    model = "bridged" if stream and path == "/v1/responses" else "mocked"
    asked = {"model": model, "stream": stream, **body}
    response = await client.post(path, json=asked, headers=key())
    assert response.status_code == 200, response.text
    assert "x-credits-remaining" in response.headers
    [event] = await events(shard)
    assert event["kind"] == "commit"
    assert event["amount"] > 0
    assert event["meta"]["completion_tokens"] > 0
    assert event["meta"]["prompt_tokens"] > 0
    assert await shard.account("acme/ann") == (FUNDS - event["amount"], 0, 1)
