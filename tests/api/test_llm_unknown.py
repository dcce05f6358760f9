"""A reserve of which no reply came: the caller is told so, nothing is held for it, and its key is
not used up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.proxy import Proxy
from support.waiting import eventually
from support.world import World


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as made:
        yield made


@pytest.fixture
def api_options(proxy: Proxy) -> dict[str, Any]:
    return {"redis_url": proxy.url}


@pytest.mark.timeouts
async def test_a_hold_of_an_unknown_outcome_is_given_back_and_the_key_works_again(
    world: World, proxy: Proxy
) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    await world.allocate("ann", 2.0)
    assert (await world.chat("ann")).status_code == 200
    headers = {"Idempotency-Key": "k"}

    async def given_back() -> bool:
        redis, voided, held = world.stores.redis, 0, 0
        for keys in map(world.stores.keys, range(2)):
            outcomes = await redis.hvals(keys.outcomes)
            voided += sum(outcome.startswith(b"voided ") for outcome in outcomes)
            held += await redis.hlen(keys.holds)
        return (voided, held) == (1, 0)

    proxy.silence(True)
    refused = await world.chat("ann", headers=headers)
    assert refused.status_code == 503
    assert refused.json()["error"]["details"]["reason"] == "outcome_unknown"
    proxy.heal()
    await eventually(given_back, what="the end of a hold that nobody was told of")
    assert world.upstream_calls == 1

    async def is_answered() -> bool:
        # For a moment after an outage requests are refused at once, which uses no key.
        answered = await world.chat("ann", headers=headers)
        return answered.status_code == 200

    await eventually(is_answered, what="an answer")
    again = await world.chat("ann", headers=headers)
    assert again.status_code == 409
    await world.prove()
