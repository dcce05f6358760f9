"""What an answer says was given can be spent when it comes: no settler runs in these tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.proxy import Proxy
from support.world import BILLING, World

from taximeter.api.billing import live_balances as live
from taximeter.settler.moves.relay import relay


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as made:
        yield made


@pytest.fixture
def api_options(proxy: Proxy) -> dict[str, Any]:
    return {"redis_url": proxy.url}


async def post(world: World, path: str, body: Any, **headers: str) -> httpx.Response:
    return await world.client.post(f"{BILLING}{path}", json=body, headers={**world.root, **headers})


async def opened(world: World, *users: str) -> None:
    assert (await world.subscribe()).status_code == 200
    for user in users:
        await world.add_member(user)


async def test_an_allocation_is_spent_in_the_next_request(world: World) -> None:
    """Twenty new users, each of whom asks a model right after the answer."""
    users = [f"user{number}" for number in range(20)]
    await opened(world, *users)
    for user in users:
        allocated = (await world.allocate(user, 2.0)).json()["allocation"]
        assert (allocated["live"], allocated["remaining_credits"]) == (True, 2.0)
        assert (await world.chat(user)).status_code == 200
        before = await world.balance(user)
        more = (await world.allocate(user, 1.0)).json()["allocation"]
        assert more["remaining_credits"] == (before.available + 1_000) / 1000
        assert more["remaining_credits"] < 3.0, "what was spent is gone, and not yet settled"
        assert (await world.balance(user)).available == before.available + 1_000
    await world.prove()


async def test_what_is_held_is_said_with_what_remains(world: World) -> None:
    await opened(world, "ann")
    await world.allocate("ann", 2.0)
    meter = await world.app.state.services.meters.get()
    hold = await meter.reserve("acme", "ann", 1_500)
    more = (await world.allocate("ann", 1.0)).json()["allocation"]
    assert (more["remaining_credits"], more["held_credits"]) == (3.0, 1.5)
    await hold.release()
    await world.prove()


async def test_a_transfer_a_return_and_a_grant_are_live_too(world: World) -> None:
    await opened(world, "ann", "bob")
    await world.allocate("ann", 5.0)
    body: dict[str, Any] = {"from_user_id": "ann", "to_user_id": "bob", "credits": 2.0}
    assert (await post(world, "/credits/acme/transfer", body)).json()["live"] is True
    assert (await world.chat("bob")).status_code == 200
    assert (await world.balance("ann")).available == 3_000
    body = {"user_id": "ann", "credits": 2.5}
    assert (await post(world, "/credits/acme/deallocate", body)).json()["live"] is True
    assert (await world.balance("ann")).available == 500
    granted = await post(world, "/users/carol/credits", {"credits": 3.0})
    assert granted.json()["allocation"]["live"] is True
    assert (await world.chat("carol")).status_code == 200
    await world.prove()


async def test_a_repetition_says_what_remains_now(world: World) -> None:
    await opened(world, "ann")
    body = {"user_id": "ann", "credits": 2.0}
    path = "/credits/acme/allocate"
    first = await post(world, path, body, **{"Idempotency-Key": "k"})
    assert (await post(world, path, body, **{"Idempotency-Key": "k"})).text == first.text
    assert (await world.chat("ann")).status_code == 200
    again = (await post(world, path, body, **{"Idempotency-Key": "k"})).json()["allocation"]
    assert again["allocated_credits"] == 2.0
    assert again["remaining_credits"] == (await world.balance("ann")).available / 1000 < 2.0


@pytest.mark.timeouts
async def test_without_redis_the_answer_says_that_it_is_not_live(
    world: World, proxy: Proxy
) -> None:
    """And comes all the same; the credits arrive with the next relay, once."""
    await opened(world, "ann")
    proxy.black_hole(True)
    answer = await world.allocate("ann", 2.0)
    allocated = answer.json()["allocation"]
    assert (answer.status_code, allocated["live"]) == (200, False)
    assert allocated["remaining_credits"] == 2.0, "as settled"
    proxy.black_hole(False)
    proxy.heal()
    await relay(world.settling)
    assert (await world.balance("ann")).available == 2_000
    await world.prove()


@pytest.mark.timeouts
async def test_a_closed_shard_is_no_live_balance(world: World) -> None:
    await opened(world, "ann")
    for shard in range(2):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "epoch", "fenced")
    assert (await world.allocate("ann", 2.0)).json()["allocation"]["live"] is False
    for shard in range(2):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "epoch", "1")
    assert (await world.allocate("ann", 1.0)).json()["allocation"]["remaining_credits"] == 3.0
    await world.prove()


async def test_what_takes_too_long_goes_on_and_is_not_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that is cancelled in the middle can leave its connection unusable for others."""
    begun, may_go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> bool:
        begun.set()
        await may_go_on.wait()
        ended.set()
        return True

    await opened(world, "ann")
    monkeypatch.setattr(live, "bring_up_to_date", slow)
    monkeypatch.setattr(live, "APPLY_TIMEOUT_S", 0.01)
    assert not await world.app.state.services.live.apply_now("acme", "ann")
    await begun.wait()
    may_go_on.set()
    async with asyncio.timeout(60):
        await ended.wait()
