"""Usage, pools and dashboards hold every charge that was acknowledged before they were asked for.

No settler runs here: whoever reads settles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.meter import Usage

CREDITS = f"{BILLING}/credits/acme"
USED: dict[str, tuple[str, Callable[[Any], float]]] = {
    "usage": (f"{CREDITS}/usage", lambda found: found["total_credits_used"]),
    "pool": (CREDITS, lambda found: found["used_credits"]),
    "allocations": (
        f"{CREDITS}/allocations",
        lambda found: sum(one["used_credits"] for one in found["allocations"]),
    ),
    "organization": (
        f"{BILLING}/billing/org/acme",
        lambda found: found["usage_stats"]["last_30_days"]["total_credits"],
    ),
    "system": (
        f"{BILLING}/billing/system",
        lambda found: found["usage_trends"]["last_7_days"][-1]["total_credits"],
    ),
    "user": (
        f"{BILLING}/billing/user",
        lambda found: found["usage_last_30_days"]["total_credits"],
    ),
}


PATIENT = {"usage_wait_s": 30.0}


async def charge(world: World, millicredits: int, user: str = "ann") -> None:
    meter = await world.app.state.services.meters.get()
    usage = Usage(service_type="llm_inference", service_name="gpt-4o")
    await meter.charge("acme", user, millicredits, usage=usage)


async def ask(world: World, name: str) -> tuple[float, Any]:
    """What an answer says is used, and the answer."""
    path, used = USED[name]
    headers = {"system": world.root, "user": world.auth("ann")}.get(name, world.auth("boss"))
    response = await world.client.get(path, headers=headers)
    assert response.status_code == 200, response.text
    return used(response.json()), response.json()


@pytest.mark.parametrize("api_options", [PATIENT])
@pytest.mark.parametrize("name", USED)
async def test_a_charge_is_in_the_answer_at_once(world: World, name: str) -> None:
    await world.funded("ann", 20.0)
    for charged in range(1, 4):
        before = datetime.now(UTC)
        await charge(world, 1000)
        used, found = await ask(world, name)
        assert used == charged
        assert found["complete"] is True
        # One clock on one machine, read in milliseconds.
        assert datetime.fromisoformat(found["as_of"]) >= before - timedelta(milliseconds=1)
    await world.prove()


async def test_what_remains_is_live_while_books_are_held_up(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.app.state.services.catch_up.of_org("acme")
    async with world.stores.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM user_credit_allocations FOR UPDATE")
        await charge(world, 2000)
        response = await world.client.get(f"{CREDITS}/allocations", headers=world.auth("boss"))
        found = response.json()
        assert found["complete"] is False
        (seen,) = found["allocations"]
        assert (seen["live"], seen["remaining_credits"], seen["used_credits"]) == (True, 18.0, 0.0)


@pytest.mark.parametrize("api_options", [{"usage_wait_s": 0.2}])
@pytest.mark.parametrize("name", USED)
async def test_past_the_bound_the_answer_says_as_of_when(world: World, name: str) -> None:
    """Somebody's transaction has the allocation, so nothing can be settled."""
    await world.funded("ann", 20.0)
    await charge(world, 1000)
    await world.settle()
    assert (await ask(world, name))[0] == 1.0
    async with world.stores.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM user_credit_allocations FOR UPDATE")
        before = datetime.now(UTC)
        await charge(world, 2000)
        used, found = await ask(world, name)
        assert (used, found["complete"]) == (1.0, False)
        # Up to the first charge that is missing, which is the one just made.
        as_of = datetime.fromisoformat(found["as_of"])
        assert before - timedelta(milliseconds=1) <= as_of <= datetime.now(UTC)

    async def caught_up() -> bool:
        used, found = await ask(world, name)
        return used == 3.0 and found["complete"] is True

    # The attempt that was held up goes on by itself.
    await eventually(caught_up, what="the charge in the answer")
    await world.prove()


@pytest.mark.parametrize("api_options", [{"usage_wait_s": 0.2}])
async def test_while_another_worker_settles_the_answer_waits_for_it(world: World) -> None:
    await world.funded("ann", 20.0)
    await charge(world, 1000)
    async with world.stores.pool.acquire() as conn:
        other = conn.transaction()
        await other.start()
        await conn.execute("SELECT FROM taximeter.watermarks FOR UPDATE")
        used, found = await ask(world, "usage")
        assert (used, found["complete"]) == (0.0, False)
        asked = asyncio.create_task(ask(world, "usage"))
        await asyncio.sleep(0)  # It may begin before or after the lock is given back.
        await other.rollback()
        used, found = await asked
    if found["complete"]:
        assert used == 1.0

    async def is_complete() -> bool:
        used, found = await ask(world, "usage")
        return (used, found["complete"]) == (1.0, True)

    await eventually(is_complete, what="the charge in the answer")


@pytest.mark.parametrize("api_options", [PATIENT])
async def test_many_readers_share_one_attempt(world: World) -> None:
    """One settles for all of them: there is one batch for each round of charges."""
    await world.funded("ann", 20.0)
    for round_number in range(1, 4):
        await asyncio.gather(*(charge(world, 10) for _ in range(20)))
        answers = await asyncio.gather(*(ask(world, "usage") for _ in range(20)))
        assert {round(used * 1000) for used, _ in answers} == {200 * round_number}
        assert all(found["complete"] for _, found in answers)
        batches = await world.stores.pool.fetchval("SELECT count(*) FROM taximeter.settled_batches")
        assert batches == round_number
    await world.prove()


async def test_a_closed_shard_is_not_taken_for_complete(world: World) -> None:
    await world.funded("ann", 20.0)
    await charge(world, 1000)
    for shard in range(2):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "epoch", "fenced")
    _, found = await ask(world, "usage")
    assert found["complete"] is False


async def test_nothing_is_missing_from_a_system_that_was_never_used(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for name in ("usage", "pool", "system"):
        used, found = await ask(world, name)
        assert (used, found["complete"]) == (0.0, True)
        assert found["as_of"] is not None


@pytest.mark.parametrize("api_options", [{"membership_cache_s": 60.0}])
async def test_a_change_of_membership_is_seen_at_once_though_lookups_are_remembered(
    world: World,
) -> None:
    async def organizations() -> list[str]:
        response = await world.client.get("/api/v1/auth/user", headers=world.auth("ann"))
        return [one["org_id"] for one in response.json()["organizations"]]

    for org in ("acme", "beta"):
        assert (await world.subscribe(org)).status_code == 200
    await world.add_member("ann")
    assert await organizations() == ["acme"]
    await world.add_member("ann", "beta")
    assert await organizations() == ["acme", "beta"]
    removed = await world.client.delete(
        f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
    )
    assert removed.status_code == 200
    assert await organizations() == ["beta"]
