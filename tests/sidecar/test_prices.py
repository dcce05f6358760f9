"""Models priced by the sidecar: at the price of the reserve, in any provider's words, and with as
much held as the policy says.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller, calling, served

from taximeter.meter import Meter
from taximeter.meter.held_estimates import EstimatedHolds, HoldPolicy
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar

CHEAP = "[models]\nm = { input = 1, output = 2, max_output = 1000 }\n"
DEAR = "[models]\nm = { input = 10, output = 20, max_output = 1000 }\n"
BOUNDS = {"model": "m", "prompt_tokens": 10_000, "max_output_tokens": 1000}
TOKENS = {"prompt_tokens": 10_000, "completion_tokens": 100}
COST, DEAR_COST = 1020, 10_200


@asynccontextmanager
async def sidecar_of(
    meter: Meter, pricer: Pricer, policy: HoldPolicy | None = None
) -> AsyncIterator[Caller]:
    made = create_sidecar(meter, pricer=pricer, holds=EstimatedHolds(policy))
    async with served(made) as url, calling(url) as caller:
        yield caller


def prices_of(tmp_path: Path, text: str) -> Path:
    path, made = tmp_path / "prices.toml", tmp_path / "new"
    made.write_text(text)
    os.replace(made, path)
    return path


async def test_a_price_that_changes_changes_nothing_that_is_open(
    meter: Meter, shard: ScriptedShard, tmp_path: Path
) -> None:
    pricer = Pricer(price_file=prices_of(tmp_path, CHEAP))
    async with sidecar_of(meter, pricer) as caller:
        held = await caller.ok("reserve", request_id="r1", **BOUNDS)
        assert held["reserved_millicredits"] == 1_000 + 200
        version = pricer.price("m").version
        prices_of(tmp_path, DEAR)
        assert pricer.reload()
        await caller.ok("reserve", request_id="r2", **BOUNDS)
        for request, cost in (("r1", COST), ("r2", DEAR_COST)):
            for _ in range(2):
                done = await caller.ok("commit", request_id=request, model="m", tokens=TOKENS)
                assert done["charged_millicredits"] == cost
        charged = await caller.ok("charge", model="m", tokens=TOKENS)
        assert charged["charged_millicredits"] == DEAR_COST
    first = json.loads((await shard.events())[0][7])["meta"]
    assert (first["price_source"], first["price_version"]) == ("override", version)
    assert first["tokens_used"] == 10_100
    assert "price" not in first, "the rates travel with the hold, not with the charge"


async def test_another_sidecar_commits_at_the_price_of_the_reserve(
    meter: Meter, shard: ScriptedShard, tmp_path: Path
) -> None:
    cheap = Pricer(price_file=prices_of(tmp_path, CHEAP))
    dear = Pricer(price_file=prices_of(tmp_path, DEAR), markup=Decimal(3))
    async with sidecar_of(meter, cheap) as one, sidecar_of(meter, dear) as other:
        await one.ok("reserve", request_id="r1", plan="trial", **BOUNDS)
        for _ in range(2):  # The price must survive a touch, which says anew what is used.
            await other.ok("touch", request_id="r1", model="m", tokens=TOKENS)
        done = await other.ok("commit", request_id="r1", model="m", tokens=TOKENS)
        assert done["charged_millicredits"] == COST
        # A fallback to another model was not priced at the reserve.
        await one.ok("reserve", request_id="r2", **BOUNDS)
        done = await other.ok("commit", request_id="r2", model="gpt-4o", tokens=TOKENS)
        assert done["charged_millicredits"] == dear.price("gpt-4o").cost(TOKENS)
        # Nor was a hold of an amount.
        await one.ok("reserve", request_id="r3", amount_millicredits=5)
        done = await other.ok("commit", request_id="r3", model="m", tokens=TOKENS)
        assert done["charged_millicredits"] == dear.price("m").cost(TOKENS) == 3 * DEAR_COST


async def test_an_expired_hold_charges_its_progress_at_the_price_of_the_reserve(
    meter: Meter, shard: ScriptedShard, tmp_path: Path
) -> None:
    pricer = Pricer(price_file=prices_of(tmp_path, CHEAP))
    async with sidecar_of(meter, pricer) as caller:
        await caller.ok("reserve", request_id="r1", **BOUNDS)
        prices_of(tmp_path, DEAR)
        pricer.reload()
        await caller.ok("touch", request_id="r1", model="m", tokens=TOKENS)
        await shard.overdue("r1", org="acme")
        await shard.sweep()
        assert await caller.balance() == (FUNDS - COST, 0)
    [event] = await shard.events()
    assert json.loads(event[7])["meta"]["tokens_used"] == 10_100


@pytest.mark.parametrize(
    ("tokens", "millicredits"),
    [
        ({"prompt_tokens": 1_000_000, "total_tokens": 1_000_000}, 300_000),
        ({"input_tokens": 1_000_000, "output_tokens": 0}, 300_000),
        (
            {
                "input_tokens": 100_000,
                "cache_read_input_tokens": 50_000,
                "cache_creation_input_tokens": 40_000,
                "output_tokens": 10_000,
            },
            30_000 + 1_500 + 15_000 + 15_000,
        ),
        ({"promptTokenCount": 100_000, "totalTokenCount": 100_000}, 30_000),
        ({"inputTokens": 100_000, "outputTokens": 0, "cacheReadInputTokens": 10}, 30_001),
    ],
)
async def test_usage_objects_of_every_provider(
    caller: Caller, tokens: dict[str, Any], millicredits: int
) -> None:
    model = "claude-3-7-sonnet-20250219"
    done = await caller.ok("charge", model=model, tokens=tokens)
    assert done["charged_millicredits"] == millicredits


async def test_markup_by_plan_and_power_level(meter: Meter, shard: ScriptedShard) -> None:
    pricer = Pricer(
        markup_by_plan={"trial": Decimal(2)}, markup_by_power_level={"precision": Decimal(3)}
    )
    tokens = {"prompt_tokens": 1000, "completion_tokens": 0}
    async with sidecar_of(meter, pricer) as caller:
        for fields, cost in (
            ({}, 250),
            ({"plan": "trial"}, 500),
            ({"plan": "trial", "power_level": "precision"}, 1500),
            ({"plan": "starter", "provider": "openai"}, 250),
        ):
            done = await caller.ok("charge", model="gpt-4o", tokens=tokens, **fields)
            assert done["charged_millicredits"] == cost


async def test_a_free_request_is_still_a_request(meter: Meter, shard: ScriptedShard) -> None:
    async with sidecar_of(meter, Pricer(unknown_model="free")) as caller:
        bounds = {**BOUNDS, "model": "nobody-sells-this"}
        await caller.ok("reserve", request_id="r1", **bounds)
        done = await caller.ok("commit", request_id="r1", model="nobody-sells-this", tokens=TOKENS)
        assert done["charged_millicredits"] == 0
    [event] = await shard.events()
    metadata = json.loads(event[7])["meta"]
    assert (event[4], metadata["free"], metadata["price_source"]) == ("0", True, "free")


async def test_images_are_held_and_charged(
    meter: Meter, shard: ScriptedShard, tmp_path: Path
) -> None:
    path = prices_of(tmp_path, "[models]\npainter = { image = 0.04 }\n")
    async with sidecar_of(meter, Pricer(price_file=path)) as caller:
        held = await caller.ok(
            "reserve",
            request_id="r1",
            model="painter",
            prompt_tokens=50,
            max_output_tokens=0,
            images=3,
        )
        assert held["reserved_millicredits"] == 12_000
        done = await caller.ok("commit", request_id="r1", model="painter", tokens={"images": 2})
        assert done["charged_millicredits"] == 8_000


AGENT = {"model": "gpt-5", "prompt_tokens": 1_000, "max_output_tokens": 128_000}
"""Allows 128,000 tokens of output, as agents do: 128.125 credits. Uses 500."""
USED = {"prompt_tokens": 1_000, "completion_tokens": 500}
AGENT_COST = 625


async def swarm(caller: Caller, agents: Iterable[int]) -> list[int]:
    """Which of the agents are admitted at the same time: all reserve before any commits."""
    agents = list(agents)
    answers = await asyncio.gather(
        *(caller.post("reserve", request_id=f"a{agent}", **AGENT) for agent in agents)
    )
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "HOLDS_IN_THE_WAY"
        else:
            assert answer.status_code == 200, answer.text
    pairs = zip(agents, answers, strict=True)
    return [agent for agent, answer in pairs if answer.status_code == 200]


async def test_without_a_policy_estimates_are_held_in_full(meter: Meter, caller: Caller) -> None:
    admitted = await swarm(caller, range(30))
    assert len(admitted) == FUNDS // 128_125 == 7
    assert (await caller.balance())[0] == FUNDS - 7 * 128_125


async def test_a_share_lets_a_swarm_of_agents_work(meter: Meter, shard: ScriptedShard) -> None:
    """1,000 credits, and 30 agents that allow 128 each. A twentieth of the balance each lets 20 of
    them in at a time, the others are told to wait, and all of them get their turn.
    """
    policy = HoldPolicy(share=Decimal("0.05"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        done: set[int] = set()
        rounds = 0
        while len(done) < 30:
            rounds += 1
            assert rounds < 10
            admitted = await swarm(caller, set(range(30)) - done)
            assert len(admitted) == min(20, 30 - len(done))
            available, held = await caller.balance()
            assert available >= 0
            assert available + held == FUNDS - len(done) * AGENT_COST
            for agent in admitted:
                answer = await caller.ok(
                    "commit", request_id=f"a{agent}", model="gpt-5", tokens=USED
                )
                assert answer["charged_millicredits"] == AGENT_COST
            done.update(admitted)
        assert await caller.balance() == (FUNDS - 30 * AGENT_COST, 0)


async def test_what_a_share_can_cost_is_what_the_policy_says(
    meter: Meter, shard: ScriptedShard
) -> None:
    """The worst case: everyone admitted uses all that they allowed. The balance goes below zero by
    what these few requests cost more than they held, and nobody is admitted after that.
    """
    policy = HoldPolicy(share=Decimal("0.1"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        admitted = await swarm(caller, range(30))
        assert len(admitted) == 10
        most = {"prompt_tokens": 1_000, "completion_tokens": 128_000}
        for agent in admitted:
            await caller.ok("commit", request_id=f"a{agent}", model="gpt-5", tokens=most)
        assert await caller.balance() == (FUNDS - 10 * 128_125, 0)
        status, code, details = await caller.refused("reserve", request_id="late", **AGENT)
        assert (status, code, details["need_millicredits"]) == (402, "INSUFFICIENT_CREDITS", 1_000)


async def test_empty_is_told_apart_from_held(meter: Meter, shard: ScriptedShard) -> None:
    policy = HoldPolicy(share=Decimal("0.5"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        await caller.ok("charge", amount_millicredits=FUNDS - 1_500)
        held = await caller.ok("reserve", request_id="a", **AGENT)
        assert held["reserved_millicredits"] == 1_000, "the floor, as half of what is left is less"
        refused = await caller.refused("reserve", request_id="b", **AGENT)
        assert refused[:2] == (429, "HOLDS_IN_THE_WAY")
        done = await caller.ok("commit", request_id="a", model="gpt-5", tokens=USED)
        assert done["charged_millicredits"] == AGENT_COST
        refused = await caller.refused("reserve", request_id="b", **AGENT)
        assert refused[:2] == (402, "INSUFFICIENT_CREDITS")


async def test_a_cap_of_a_request_and_small_estimates(meter: Meter, shard: ScriptedShard) -> None:
    policy = HoldPolicy(cap=2_000, share=Decimal("0.5"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        held = await caller.ok("reserve", request_id="a", **AGENT)
        assert held["reserved_millicredits"] == 2_000
        small = {**AGENT, "max_output_tokens": 100}
        held = await caller.ok("reserve", request_id="b", **small)
        assert held["reserved_millicredits"] == 225, "an estimate below the limits is held as it is"
        plain = await caller.ok("reserve", request_id="c", amount_millicredits=50_000)
        assert plain["reserved_millicredits"] == 50_000, "an amount is not an estimate of ours"


async def test_a_repeat_is_one_although_the_share_has_moved(
    meter: Meter, shard: ScriptedShard
) -> None:
    policy = HoldPolicy(share=Decimal("0.1"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        first = await caller.ok("reserve", request_id="a", **AGENT)
        await caller.ok("charge", amount_millicredits=FUNDS // 2)
        await caller.ok("reserve", request_id="b", **AGENT)
        _, code, recorded = await caller.refused("reserve", request_id="a", **AGENT)
        assert (code, recorded["reserved_millicredits"]) == (
            "REPLAYED",
            first["reserved_millicredits"],
        )
        await caller.ok("charge", request_id="c", amount_millicredits=3)
        assert (await caller.refused("reserve", request_id="c", **AGENT))[1] == "CONFLICT"


async def test_credits_that_were_added_count_at_once(meter: Meter, shard: ScriptedShard) -> None:
    policy = HoldPolicy(share=Decimal("0.1"), floor=1_000)
    async with sidecar_of(meter, Pricer(), policy) as caller:
        await caller.ok("charge", amount_millicredits=FUNDS)
        assert (await caller.refused("reserve", request_id="a", **AGENT))[0] == 402
        await shard.apply(("acme/ann", 2, FUNDS))
        held = await caller.ok("reserve", request_id="a", **AGENT)
        assert held["reserved_millicredits"] >= 1_000
        held = await caller.ok("reserve", request_id="b", **AGENT)
        assert held["reserved_millicredits"] == FUNDS // 10
