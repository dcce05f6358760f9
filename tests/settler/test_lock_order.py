"""Settle takes its locks in the order that everybody keeps: nobody meets a deadlock with it."""

from __future__ import annotations

import asyncio

import pytest
from settler_world import World, eventually

from taximeter.settler.settling.settle import settle_once


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


async def test_accounts_before_rollups_and_pools(world: World) -> None:
    """A charge of a closed allocation gives its account an entry. Whoever changes a new allocation
    of that user has the account, and goes on to the pool.
    """
    await world.organization("acme", ann=1_000)
    await world.charge("ann", 1)
    await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
    async with world.pool.acquire() as first, first.transaction():
        await first.execute("SELECT FROM taximeter.accounts WHERE user_id = 'ann' FOR UPDATE")
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await eventually(lambda: waits(world))
        await first.execute("SELECT FROM organization_credit_pools FOR NO KEY UPDATE NOWAIT")
        # By hand, with its rollups: it would wait for those of a settle that waits for us.
        await first.execute("SET LOCAL lock_timeout = '5s'")
        await first.execute(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name,"
            " credits_used) VALUES ('acme', 'ann', 'llm_inference', 'gpt-4o', 1)"
        )
    assert (await settling).settled == 1


async def test_what_gets_something_back_is_locked_before_pools(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.charge("ann", 5, "twice")
    await world.settle()
    await world.inject(await world.line("ann", 5, "twice"))
    await world.charge("ann", 1)
    async with world.pool.acquire() as first, first.transaction():
        await first.execute("SELECT FROM taximeter.accounts WHERE user_id = 'ann' FOR UPDATE")
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await eventually(lambda: waits(world))
        await first.execute("SELECT FROM organization_credit_pools FOR NO KEY UPDATE NOWAIT")
    done = await settling
    assert (done.settled, done.dead) == (1, 1)


async def test_a_new_allocation_that_waits_for_its_account_lets_settle_have_the_pool(
    world: World,
) -> None:
    """The foreign key of a new allocation shares its pool's key before its trigger comes to the
    account, which a settle may have by then.
    """
    await world.organization("acme", ann=1_000)
    await world.charge("ann", 1)
    await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
    async with world.pool.acquire() as first, first.transaction():
        await first.execute("SELECT FROM organization_credit_pools FOR KEY SHARE")
        async with asyncio.timeout(60):
            assert (await settle_once(world.stores, 0)).settled == 1
    await world.assert_books()
