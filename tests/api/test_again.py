"""What Postgres undoes for the sake of somebody else is done again; what stays undone is a 503."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.again import ATTEMPTS, UNDONE


@pytest.fixture
async def impatient(world: World, database_url: str) -> World:
    """The API's statements wait for a lock for a moment only, and are then undone."""
    assert (await world.subscribe()).status_code == 200
    conn = await asyncpg.connect(database_url)
    name = await conn.fetchval("SELECT current_database()")
    await conn.execute(f"ALTER DATABASE \"{name}\" SET lock_timeout = '50ms'")
    await conn.close()
    await world.app.state.services.pool.expire_connections()
    UNDONE.clear()
    return world


BODY = {"credits": 5, "purchase_amount": 1, "stripe_payment_id": "pay-1"}
PATH = f"{BILLING}/credits/acme/add"


async def test_an_undone_request_is_done_again_and_takes_effect_once(impatient: World) -> None:
    async with impatient.stores.pool.acquire() as conn:
        holding = conn.transaction()
        await holding.start()
        await conn.execute("SELECT FROM organization_credit_pools FOR UPDATE")
        asking = asyncio.create_task(impatient.client.post(PATH, json=BODY, headers=impatient.root))

        async def undone() -> bool:
            return bool(UNDONE["add_credits"])

        await eventually(undone, what="the first attempt being undone")
        await holding.rollback()
    response = await asking
    assert response.status_code == 200, response.text
    assert response.json()["pool"]["total_credits"] == 105.0


async def test_what_stays_undone_is_unavailable_and_has_changed_nothing(impatient: World) -> None:
    async with impatient.stores.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM organization_credit_pools FOR UPDATE")
        response = await impatient.client.post(PATH, json=BODY, headers=impatient.root)
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["details"] == {"reason": "busy"}
    assert UNDONE["add_credits"] == ATTEMPTS
    total = "SELECT total_credits FROM organization_credit_pools"
    assert await impatient.stores.pool.fetchval(total) == 100_000
