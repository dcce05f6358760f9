"""Admins take locks in the order that everybody keeps, so that no two of them and no settler meet a
deadlock: allocations before their pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from support.waiting import eventually
from support.world import BILLING, World

Change = Callable[[World], Awaitable[int]]


async def post(world: World, path: str, **body: object) -> int:
    response = await world.client.post(f"{BILLING}/{path}", json=body, headers=world.root)
    return response.status_code


CHANGES: dict[str, tuple[str, Change]] = {
    "allocate": (
        "acme",
        lambda world: post(world, "credits/acme/allocate", user_id="ann", credits=1),
    ),
    "deallocate": (
        "acme",
        lambda world: post(world, "credits/acme/deallocate", user_id="ann", credits=1),
    ),
    "refund": (
        "acme",
        lambda world: post(
            world, "credits/acme/refund", user_id="ann", credits=1, reason="an outage"
        ),
    ),
    "grant": (
        "personal:ann",
        lambda world: post(world, "users/ann/credits", credits=1, purchase_amount=1),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_allocations_before_their_pool(world: World, name: str) -> None:
    await world.funded()
    org_id, change = CHANGES[name]
    assert await post(world, "users/ann/credits", credits=5, purchase_amount=5) == 200
    pool = world.stores.pool
    async with pool.acquire() as first, first.transaction():
        await first.execute(
            "SELECT FROM user_credit_allocations WHERE (org_id, user_id) = ($1, 'ann') FOR UPDATE",
            org_id,
        )
        changing = asyncio.ensure_future(change(world))
        await eventually(lambda: waits(world, first))
        # It stands before the allocation, and does not hold the pool meanwhile.
        async with pool.acquire() as other, other.transaction():
            await other.execute(
                "SELECT FROM organization_credit_pools WHERE org_id = $1 FOR UPDATE NOWAIT", org_id
            )
    assert await changing == 200
    await world.prove()


async def waits(world: World, first: asyncpg.pool.PoolConnectionProxy) -> bool:
    """Whether a backend waits for what `first` has locked."""
    return bool(
        await world.stores.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid))",
            first.get_server_pid(),
        )
    )
