"""Several upstreams: who is asked, in what order, under which name, and at whose price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.provider import Asked, Provider, chat_answer, event
from support.world import World

from taximeter.api.upstreams.config import ConfigError, RoutingConfig, check_providers
from taximeter.api.upstreams.router import Router
from taximeter.meter.pricing import Pricer, UnpricedModel

DEAR, CHEAP = "gpt-4o", "gpt-4o-mini"


async def answers(asked: Asked) -> None:
    if asked.body.get("stream"):
        await asked.begin()
        await asked.text("one", finish="stop", usage=chat_answer()["usage"])
        await asked.end()
    else:
        await asked.answer(chat_answer(), x_request_id="up-1", x_secret_of_operator="1")


def failing(status: str) -> Any:
    async def script(asked: Asked) -> None:
        await asked.answer({"error": {"message": "not now"}}, status)

    return script


@pytest.fixture
async def first() -> AsyncIterator[Provider]:
    async with Provider(answers).serving() as opened:
        yield opened


@pytest.fixture
async def second() -> AsyncIterator[Provider]:
    async with Provider(answers).serving() as opened:
        yield opened


@pytest.fixture
def api_options(
    first: Provider, second: Provider, tmp_path: Path, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """A route over both for one model, a renaming, and one upstream alone for some others."""
    own: dict[str, Any] = {"rest_s": 600.0, "retries": 0, **getattr(request, "param", {})}
    document = {
        "upstreams": [
            {"name": "first", "base_url": first.url, "api_key": "first-key-1", **own},
            {"name": "second", "base_url": second.url, "api_key": "second-key-2", **own},
            {"name": "azure", "base_url": second.url, "provider": "azure", "region": "eu", **own},
        ],
        "routes": [
            {
                "models": [CHEAP],
                "targets": [{"upstream": "first"}, {"upstream": "second", "model": DEAR}],
            },
            {
                "models": ["house-*"],
                "targets": [{"upstream": "second", "model": "deployed-7", "price_as": CHEAP}],
            },
            {"models": ["gpt-3.5-*", "gpt-4"], "targets": [{"upstream": "second"}]},
            {"models": ["odd"], "targets": [{"upstream": "first"}, {"upstream": "second"}]},
            {
                "models": ["zoned-*"],
                "targets": [{"upstream": "azure", "model": "mine", "price_as": CHEAP}],
            },
        ],
    }
    path = tmp_path / "upstreams.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return {"upstream_base_url": None, "upstream_name": None, "upstreams_file": path}


async def booked(world: World) -> list[dict[str, Any]]:
    return [{**one, **json.loads(one["metadata"])} for one in await world.charges()]


def cost_of(world: World, model: str) -> int:
    cost: int = world.app.state.services.pricer.price(model).cost(chat_answer()["usage"])
    return cost


async def test_the_first_answers_while_it_can(
    world: World, first: Provider, second: Provider
) -> None:
    await world.funded()
    response = await world.chat(model=CHEAP)
    assert response.headers["X-Provider-Used"] == "first"
    assert response.headers["X-Upstream-Request-Id"] == "up-1"
    assert "x-secret-of-operator" not in response.headers
    assert (len(first.asked), len(second.asked)) == (1, 0)
    assert first.asked[0].headers["authorization"] == "Bearer first-key-1"
    [charge] = await booked(world)
    assert charge["credits_used"] == cost_of(world, CHEAP)


@pytest.mark.parametrize("stream", [True, False], ids=("stream", "whole"))
@pytest.mark.parametrize("status", ["502 X", "503 X", "429 X", "401 X", "403 X"])
async def test_the_next_answers_at_its_own_price(
    world: World, first: Provider, second: Provider, status: str, stream: bool
) -> None:
    """Charged once, by the price of who answered; the hold was for the dearer of both."""
    await world.funded()
    first.script = failing(status)
    response = await world.chat(model=CHEAP, stream=stream)
    assert response.status_code == 200
    assert response.headers["X-Provider-Used"] == "second"
    assert (len(first.asked), len(second.asked)) == (1, 1)
    assert (first.asked[0].body["model"], second.asked[0].body["model"]) == (CHEAP, DEAR)
    assert second.asked[0].headers["authorization"] == "Bearer second-key-2"
    [charge] = await booked(world)
    assert charge["credits_used"] == cost_of(world, DEAR) > cost_of(world, CHEAP)
    assert (charge["provider"], charge["upstream_model"]) == ("second", DEAR)
    assert charge["service_name"] == CHEAP
    assert charge["reserved"] >= charge["credits_used"]
    await world.prove()


@pytest.mark.parametrize("status", ["400 X", "404 X", "422 X", "500 X", "504 X"])
async def test_a_failure_that_may_have_cost_money_or_is_the_callers_is_final(
    world: World, first: Provider, second: Provider, status: str
) -> None:
    await world.funded()
    first.script = failing(status)
    response = await world.chat(model=CHEAP)
    assert response.status_code in (400, 404, 422, 502)
    assert (len(first.asked), len(second.asked)) == (1, 0)
    assert await world.charges() == []


async def test_a_connection_that_breaks_is_not_repeated_elsewhere(
    world: World, first: Provider, second: Provider
) -> None:
    await world.funded()

    async def breaks(asked: Asked) -> None:
        asked.reset()

    first.script = breaks
    assert (await world.chat(model=CHEAP)).status_code == 502
    assert (len(first.asked), len(second.asked)) == (1, 0)


@pytest.mark.parametrize("api_options", [{"retries": 2}], indirect=True)
async def test_retries_are_bounded(world: World, first: Provider, second: Provider) -> None:
    """503 is repeated as often as the file says, and then the next is asked."""
    await world.funded()
    first.script = failing("503 X")
    assert (await world.chat(model=CHEAP)).headers["X-Provider-Used"] == "second"
    assert (len(first.asked), len(second.asked)) == (3, 1)
    second.script = failing("503 X")
    assert (await world.chat(model=CHEAP)).status_code == 502
    assert (len(first.asked), len(second.asked)) == (6, 4)
    assert len(await world.charges()) == 1


@pytest.mark.parametrize("api_options", [{"rest_after_failures": 2}], indirect=True)
async def test_an_upstream_that_is_gone_is_left_alone_for_a_while(
    world: World, first: Provider, second: Provider
) -> None:
    await world.funded()
    upstream = world.app.state.services.router.upstreams["first"]
    first.close()
    for _ in range(2):
        assert not upstream.rest.is_resting
        assert (await world.chat(model=CHEAP)).headers["X-Provider-Used"] == "second"
    assert upstream.rest.is_resting
    assert (await world.chat(model=CHEAP)).headers["X-Provider-Used"] == "second"
    second.close()
    for _ in range(2):
        assert (await world.chat(model=CHEAP)).status_code == 502
    response = await world.chat(model=CHEAP)
    assert response.status_code == 503
    assert response.json()["error"]["details"]["reason"] == "upstream_resting"
    assert (await world.balance()).held == 0


async def test_names_there_and_prices(world: World, second: Provider) -> None:
    await world.funded()
    response = await world.chat(model="house-large", metadata={"x": "1.50"})
    assert response.status_code == 200
    assert second.asked[0].body["model"] == "deployed-7"
    [charge] = await booked(world)
    assert charge["credits_used"] == cost_of(world, CHEAP)
    assert (charge["service_name"], charge["upstream_model"]) == ("house-large", "deployed-7")


async def test_a_model_without_route_or_price(
    world: World, first: Provider, second: Provider
) -> None:
    await world.funded()
    response = await world.chat(model="gpt-5")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    response = await world.chat(model="odd")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "UNPRICED_MODEL")
    assert not first.asked
    assert not second.asked


async def test_the_models_that_are_listed(world: World, first: Provider, second: Provider) -> None:
    """Those that routes name, and those that upstreams list and a route takes; all with a price."""

    async def listing(asked: Asked) -> None:
        names = ("gpt-3.5-turbo", "gpt-5", "gpt-3.5-nobody-knows")
        await asked.answer({"data": [{"id": name} for name in names]})

    first.script = failing("500 X")
    second.script = listing
    for root in ("/v1", "/api/v1/llm"):
        listed = (await world.client.get(f"{root}/models", headers=world.auth("ann"))).json()
        found = {one["id"]: one["owned_by"] for one in listed["data"]}
        assert found == {CHEAP: "first", "gpt-3.5-turbo": "second", "gpt-4": "second"}
    assert len(second.asked) == 2, "they are remembered, of each of its two upstreams"
    one = await world.client.get("/v1/models/gpt-4", headers=world.auth("ann"))
    assert one.json()["object"] == "model"
    assert (
        await world.client.get("/v1/models/gpt-5", headers=world.auth("ann"))
    ).status_code == 404
    assert (await world.client.get("/v1/models")).status_code == 401


async def test_headers_of_the_connection_and_the_session_end_here(
    world: World, first: Provider
) -> None:
    await world.funded()
    sent = {
        "Cookie": "a=b",
        "X-Api-Key": "caller",
        "OpenAI-Organization": "org-caller",
        "X-Forwarded-For": "10.0.0.1",
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "OpenAI-Beta": "assistants=v2",
        "traceparent": "00-1-2-3",
    }

    async def script(asked: Asked) -> None:
        await asked.answer(
            chat_answer(),
            Set_Cookie="a=b",
            Keep_Alive="timeout=5",
            Proxy_Authenticate="Basic",
            Openai_Organization="org-operator",
            Upgrade="h2c",
        )

    first.script = script
    response = await world.chat(model=CHEAP, headers=sent)
    assert response.status_code == 200, response.text
    [asked] = first.asked
    assert asked.line == "POST /v1/chat/completions HTTP/1.1"
    assert set(asked.headers) == {
        *("host", "user-agent", "accept", "accept-encoding", "content-type", "content-length"),
        *("authorization", "x-request-id", "openai-beta", "traceparent"),
    }
    shown = {"set-cookie", "keep-alive", "proxy-authenticate", "openai-organization", "upgrade"}
    assert not shown & set(response.headers)


async def test_a_caller_chooses_no_upstream(world: World, first: Provider) -> None:
    """Fields that other gateways obey are refused, and a query goes nowhere."""
    await world.funded()
    async with Provider(answers).serving() as evil:
        for name in ("api_base", "base_url", "api_key", "api_version", "organization"):
            response = await world.chat(model=CHEAP, **{name: evil.url})
            assert response.status_code == 422
        response = await world.client.post(
            f"/v1/chat/completions?api_base={evil.url}",
            json={"model": CHEAP, "messages": [{"role": "user", "content": "x"}]},
            headers={**world.auth("ann"), "X-Api-Base": evil.url, "X-Forwarded-Host": "evil"},
        )
        assert response.status_code == 200
        assert not evil.asked
    assert first.asked[0].line == "POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize("status", ["301 X", "302 X", "307 X", "308 X"])
async def test_redirects_are_not_followed(world: World, first: Provider, status: str) -> None:
    await world.funded()
    async with Provider(answers).serving() as elsewhere:

        async def script(asked: Asked) -> None:
            await asked.answer({}, status, Location=f"{elsewhere.url}/chat/completions")

        first.script = script
        response = await world.chat(model=CHEAP)
        assert response.status_code == 502
        assert "location" not in response.headers
        assert not elsewhere.asked
    assert await world.charges() == []


async def test_ten_callers_while_the_first_is_down_pay_once_each(
    world: World, first: Provider, second: Provider
) -> None:
    await world.funded()
    first.script = failing("503 X")
    responses = await asyncio.gather(*(world.chat(model=CHEAP, max_tokens=50) for _ in range(10)))
    assert {response.headers["X-Provider-Used"] for response in responses} == {"second"}
    assert len(second.asked) == 10
    charges = await booked(world)
    assert [charge["credits_used"] for charge in charges] == [cost_of(world, DEAR)] * 10
    await world.prove()


async def test_usage_beside_the_last_choice_still_tells_the_cost(
    world: World, first: Provider
) -> None:
    """Some providers send no usage chunk of its own: one is added for who asked."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        last = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
        usage = chat_answer()["usage"]
        await asked.chunk(event({"id": "1", "choices": [last], "usage": usage}))
        await asked.end()

    first.script = script
    response = await world.chat(model=CHEAP, stream=True, stream_options={"include_usage": True})
    events = [json.loads(one[6:]) for one in response.text.strip().split("\n\n")[:-1]]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["cost_incurred"] * 1000 == cost_of(world, CHEAP)


async def test_a_charge_is_of_the_model_at_the_upstreams_provider(world: World) -> None:
    await world.funded()
    assert (await world.chat(model="zoned-1")).status_code == 200
    [charge] = await booked(world)
    assert charge["price_of"] == f"azure/eu/{CHEAP}"
    assert charge["credits_used"] == cost_of(world, f"azure/eu/{CHEAP}")
    assert charge["price_dated"] == "2026-11-29"


def sold_at(**fields: Any) -> tuple[str, str]:
    """Identity and price per million prompt tokens of what one upstream sells."""
    target = {"upstream": "one", **{k: fields.pop(k) for k in ("model", "price_as") if k in fields}}
    config = RoutingConfig.model_validate(
        {
            "upstreams": [{"name": "one", "base_url": "http://127.0.0.1:1/v1", **fields}],
            "routes": [{"models": ["*"], "targets": [target]}],
        }
    )

    class Opened:
        provider = config.upstreams[0].provider
        region = config.upstreams[0].region

    opened: Any = Opened()
    [found] = Router(config, {"one": opened}).targets("openai/gpt-oss-120b")
    price = Pricer().price(found.price_as, provider=found.provider)
    return price.identity, price.provider


def test_what_an_upstream_sells_has_the_price_of_its_provider() -> None:
    assert sold_at(provider="groq") == ("groq/openai/gpt-oss-120b", "groq")
    assert sold_at(provider="fireworks_ai", price_as="gpt-oss-120b")[1] == "fireworks"
    # A name that tells its host itself is taken by its word.
    assert sold_at(provider="groq", price_as="azure/gpt-4o")[0] == "azure/gpt-4o"
    azure = {"provider": "azure", "model": "mine", "price_as": "gpt-4o"}
    assert sold_at(**azure)[0] == "azure/gpt-4o"
    assert sold_at(**azure, region="eu")[0] == "azure/eu/gpt-4o"
    assert Pricer().price("azure/eu/gpt-4o").cost({"prompt_tokens": 10**6}) == 275_000
    bedrock = {"provider": "bedrock", "price_as": "anthropic.claude-sonnet-4-5-20250929-v1:0"}
    assert sold_at(**bedrock, region="us-east-1")[0].startswith("aws/us-east-1/anthropic.")
    with pytest.raises(UnpricedModel):  # Its price there is another one, which no list has.
        sold_at(**bedrock, region="us-gov-west-1")
    with pytest.raises(ValidationError, match="region needs a provider"):
        sold_at(region="eu")


def test_a_provider_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    def config(provider: str) -> RoutingConfig:
        upstream = {"name": "one", "base_url": "http://127.0.0.1:1", "provider": provider}
        routes = [{"models": ["*"], "targets": [{"upstream": "one"}]}]
        return RoutingConfig.model_validate({"upstreams": [upstream], "routes": routes})

    with pytest.raises(ConfigError) as refusal:
        check_providers(config("opneai"), Pricer())
    assert "upstream one: provider opneai is in no price list; known are openai" in str(
        refusal.value
    )
    check_providers(config("vertex_ai"), Pricer())
    own = tmp_path / "prices.toml"
    own.write_text('[models]\n"house/small" = { input = 1 }\n')
    check_providers(config("house"), Pricer(price_file=own))
