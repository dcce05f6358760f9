"""Settle takes its locks in the order that everybody keeps: nobody meets a deadlock with it."""

from __future__ import annotations

import asyncio

import pytest
from settler_world import World, eventually

from taximeter.settler.settle import settle_once


async def waits(world: World) -> bool:
    """Whether a backend of this database waits for a lock."""
    return bool(
        await world.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


@pytest.mark.parametrize("closed", [False, True], ids=["active", "closed"])
async def test_allocations_by_organisation_and_user_and_before_any_pool(
    world: World, closed: bool
) -> None:
    await world.organization("acme", ann=1_000, bob=1_000)
    await world.organization("beta", ann=1_000)
    await world.charge("ann", 1, org_id="beta")
    await world.charge("bob", 1)
    await world.charge("ann", 1)
    if closed:
        await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
    async with world.pool.acquire() as first, first.transaction():
        await first.execute(
            "SELECT FROM user_credit_allocations WHERE (org_id, user_id) = ('acme', 'ann')"
            " FOR UPDATE"
        )
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await eventually(lambda: waits(world))
        # It stands before the first and holds nothing of what comes after it.
        async with world.pool.acquire() as other, other.transaction():
            await other.execute(
                "SELECT FROM user_credit_allocations WHERE (org_id, user_id) <> ('acme', 'ann')"
                " FOR UPDATE NOWAIT"
            )
            await other.execute("SELECT FROM organization_credit_pools FOR UPDATE NOWAIT")
    assert (await settling).settled == 3
    await world.assert_books()


async def test_pools_by_organisation(world: World) -> None:
    for org_id in ("beta", "acme"):
        await world.organization(org_id, ann=1_000)
        await world.charge("ann", 1, org_id=org_id)
    async with world.pool.acquire() as first, first.transaction():
        await first.execute(
            "SELECT FROM organization_credit_pools WHERE org_id = 'acme' FOR UPDATE"
        )
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await eventually(lambda: waits(world))
        async with world.pool.acquire() as other, other.transaction():
            await other.execute(
                "SELECT FROM organization_credit_pools WHERE org_id = 'beta' FOR UPDATE NOWAIT"
            )
    assert (await settling).settled == 2
    await world.assert_books()
