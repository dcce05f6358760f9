"""Requests that set no limit of output: together they take no balance below zero, since each gets
the output that its hold pays for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.provider import Asked, Provider, chat_answer
from support.world import World

from taximeter.api.llm.estimates import measure
from taximeter.api.llm.quote import quote
from taximeter.api.openai.parse import SURFACES, parse_request
from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.router import Target
from taximeter.meter.pricing import Pricer

CEILING = 16_384  # of gpt-4o


class Talker:
    """Says as much as it may, when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await self.go_on.wait()
        body = asked.body
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or CEILING
        said = min(limit, CEILING)
        usage = {"prompt_tokens": 10, "completion_tokens": said, "total_tokens": 10 + said}
        await asked.answer(chat_answer("word", usage=usage))


@pytest.fixture
def talker() -> Talker:
    return Talker()


@pytest.fixture
async def provider(talker: Talker) -> AsyncIterator[Provider]:
    async with Provider(talker).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider) -> dict[str, Any]:
    return {"upstream_base_url": provider.url}


async def test_ten_at_once_spend_no_more_than_there_is(
    world: World, provider: Provider, talker: Talker
) -> None:
    """An answer of this model can cost 16 credits: ten of them four times what there is."""
    await world.funded(credits=42.0)
    asks = [asyncio.create_task(world.chat(model="gpt-4o")) for _ in range(10)]
    waiting: set[asyncio.Task[Any]] = set(asks)
    while len(provider.asked) + sum(ask.done() for ask in asks) < 10:
        await asyncio.wait(waiting, timeout=0.05)
    talker.go_on.set()
    answers = await asyncio.gather(*asks)
    admitted = [one for one in answers if one.status_code == 200]
    assert {one.status_code for one in answers} <= {200, 429}
    assert len(admitted) >= 7
    assert (await world.balance()).available >= 0
    assert all(one.body["max_completion_tokens"] >= 4096 for one in provider.asked)
    await world.prove()


async def test_who_has_enough_is_cut_nowhere(
    world: World, provider: Provider, talker: Talker
) -> None:
    """The body goes upstream as it came, and the hold pays for all that the model can say."""
    await world.funded(credits=90.0)
    talker.go_on.set()
    assert (await world.chat(model="gpt-4o-mini")).status_code == 200
    assert (await world.chat(model="gpt-4o", max_tokens=7)).status_code == 200
    assert "max_completion_tokens" not in provider.asked[0].body
    assert "max_completion_tokens" not in provider.asked[1].body
    assert (await world.balance()).available >= 0


@pytest.mark.parametrize("held_part", [0.0, 0.3, 0.7, 0.999])
async def test_what_a_hold_pays_for_costs_no_more(held_part: float) -> None:
    settings, pricer = ApiSettings(dev_mode=True), Pricer()
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}],"n":2}'
    chat = parse_request(body, SURFACES[0])
    targets = tuple(Target(None, name, name) for name in ("gpt-4o", "gpt-4o-mini"))  # type: ignore[arg-type]
    quoted = quote(settings, pricer, chat, await measure(chat.prompt), targets, None)
    assert quoted.least < quoted.full
    held = quoted.least + int((quoted.full - quoted.least) * held_part)
    tokens = quoted.output_paid_by(held)
    assert tokens is not None
    assert 4096 <= tokens < CEILING
    usage = {"prompt_tokens": 10, "completion_tokens": 2 * tokens, "total_tokens": 10 + 2 * tokens}
    assert all(price.cost(usage) <= held for price in quoted.prices.values())
    assert quoted.output_paid_by(quoted.full) is None
