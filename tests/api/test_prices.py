"""Prices on the LLM route: markups, a price that holds for its request, and what is held of it."""

from __future__ import annotations

import asyncio
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually
from support.world import World

from taximeter.meter.pricing import Pricer

MODEL = "gpt-4o-mini"


async def charged(world: World) -> list[tuple[int, dict[str, Any]]]:
    return [(one["credits_used"], json.loads(one["metadata"])) for one in await world.charges()]


def write(path: Path, text: str) -> None:
    made = path.with_suffix(".new")
    made.write_text(text)
    os.replace(made, path)


@pytest.mark.parametrize(
    "api_options",
    [
        {
            "markup_by_plan": {"professional": Decimal(20)},
            "markup_by_power_level": {"precision": Decimal(3), "eco": Decimal("0.1")},
            "power_level_by_plan": {"professional": "precision"},
        }
    ],
)
async def test_a_plan_has_its_markup_and_its_power_level(world: World) -> None:
    """Which price a request has is decided by route and plan; what it says itself changes none."""
    await world.funded()
    for level in ({}, {"power_level": "precision"}, {"power_level": "a word"}):
        assert (await world.chat(**level)).status_code == 200
    cheap = await world.chat(power_level="eco")
    assert cheap.status_code == 422
    assert "here it is 'precision'" in cheap.json()["error"]["message"]
    dollars = Pricer(markup=Decimal(20), markup_by_power_level={"p": Decimal(3)})
    charges = await charged(world)
    assert len(charges) == 3
    for cost, made in charges:
        tokens = {name: made[name] for name in ("prompt_tokens", "completion_tokens")}
        assert cost == dollars.price(MODEL, power_level="p").cost(tokens)
        assert made["price_version"].endswith("markup 20 of professional, precision 3")
        assert made["price_source"] == "genai-prices"


@pytest.fixture
def api_options(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "prices.toml"
    write(path, f'version = "old"\n[models]\n{MODEL} = {{ input = 100, output = 100 }}\n')
    return {"price_file": path, "price_file_check_s": 0.05}


async def test_a_price_that_changes_is_charged_from_the_next_request_on(
    world: World, tmp_path: Path
) -> None:
    await world.funded()
    pricer = world.app.state.services.pricer
    running = asyncio.create_task(world.chat(simulate={"latency_s": 2.0}))

    async def is_held() -> bool:
        return (await world.balance()).held > 0

    await eventually(is_held, what="the hold")
    path = tmp_path / "prices.toml"
    write(path, "[models]\nbroken = { input = -1 }\n")
    write(path, f'version = "new"\n[models]\n{MODEL} = {{ input = 1, output = 1 }}\n')

    async def is_read() -> bool:
        return bool(pricer.file_version == "prices.toml new")

    await eventually(is_read, what="the new prices")
    assert not running.done(), "the request was to be under way while the price changed"
    assert (await running).status_code == 200
    assert (await world.chat()).status_code == 200
    (before, first), (after, second) = await charged(world)
    assert before == first["tokens_used"] * 10
    assert after == -(-second["tokens_used"] // 10)
    assert first["price_version"].startswith("prices.toml old,")
    assert second["price_version"].startswith("prices.toml new,")
    await world.prove()


async def test_a_file_that_breaks_later_changes_nothing(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await world.funded()
    write(tmp_path / "prices.toml", "[models]\nbroken = { input = -1 }\n")

    async def is_told() -> bool:
        return "prices stay as they were" in caplog.text

    await eventually(is_told, what="the error in the log")
    assert 'line 2: model "broken" input must be a number of dollars' in caplog.text
    assert (await world.chat()).status_code == 200
    [(_, metadata)] = await charged(world)
    assert metadata["price_version"].startswith("prices.toml old,")


@pytest.mark.parametrize("api_options", [{"unknown_model": "free", "pricing_provider": "none"}])
async def test_a_free_request_is_booked_with_its_flag(world: World) -> None:
    await world.funded()
    response = await world.chat()
    assert (response.status_code, response.headers["X-Cost-Incurred"]) == (200, "0.000")
    [(amount, metadata)] = await charged(world)
    assert (amount, metadata["free"], metadata["price_source"]) == (0, True, "free")
    await world.prove()


@pytest.mark.parametrize("api_options", [{"pricing_provider": "none"}])
async def test_an_unpriced_model_is_refused_before_anything_is_sent(world: World) -> None:
    await world.funded()
    response = await world.chat()
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "UNPRICED_MODEL"
    assert world.upstream_calls == 0


@pytest.mark.parametrize(
    "api_options", [{"estimate_share": Decimal("0.2"), "estimate_floor_credits": Decimal("0.1")}]
)
async def test_agents_with_a_huge_max_tokens_do_not_lock_a_balance(world: World) -> None:
    """Two credits, and requests that allow nearly one each: a fifth of the balance lets five in at
    a time, and the others are told to wait and not that the balance is empty.
    """
    await world.funded(credits=2.0)

    async def ask() -> int:
        response = await world.chat(max_tokens=128_000, simulate={"latency_s": 3.0})
        if response.status_code == 429:
            assert response.headers["retry-after"]
            assert response.json()["error"]["details"]["reason"] == "credits_held"
        return response.status_code

    statuses = await asyncio.gather(*(ask() for _ in range(8)))
    assert sorted(statuses) == [200] * 5 + [429] * 3
    balance = await world.balance()
    assert balance.held == 0
    assert 1_900 < balance.available < 2_000, "what was used is charged, and nothing else"
    await world.prove()
