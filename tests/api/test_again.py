"""What Postgres undoes for the sake of somebody else is done again; what stays undone is a 503."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.web.retries import ATTEMPTS, UNDONE

UNDO = """
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'for the sake of another one' USING ERRCODE = 'deadlock_detected'; END $$;
CREATE TRIGGER undo BEFORE UPDATE ON organization_credit_pools EXECUTE FUNCTION undo();
"""
"""Postgres undoes each transaction that changes a pool, as it does with one of two that wait for
each other.
"""


@pytest.fixture
async def undoing(world: World) -> World:
    assert (await world.subscribe()).status_code == 200
    await world.stores.pool.execute(UNDO)
    UNDONE.clear()
    return world


BODY = {"credits": 5, "purchase_amount": 1, "stripe_payment_id": "pay-1"}
PATH = f"{BILLING}/credits/acme/add"


async def test_an_undone_request_is_done_again_and_takes_effect_once(
    undoing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taximeter.api.web.retries.ATTEMPTS", 10**6)
    asking = asyncio.create_task(undoing.client.post(PATH, json=BODY, headers=undoing.root))

    async def undone() -> bool:
        return UNDONE["add_credits"] > 1 or asking.done()

    await eventually(undone, what="the first attempts being undone")
    await undoing.stores.pool.execute("DROP TRIGGER undo ON organization_credit_pools")
    response = await asking
    assert response.status_code == 200, response.text
    assert response.json()["pool"]["total_credits"] == 105.0


async def test_what_stays_undone_is_unavailable_and_has_changed_nothing(undoing: World) -> None:
    response = await undoing.client.post(PATH, json=BODY, headers=undoing.root)
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["details"] == {"reason": "busy"}
    assert UNDONE["add_credits"] == ATTEMPTS
    total = "SELECT total_credits FROM organization_credit_pools"
    assert await undoing.stores.pool.fetchval(total) == 100_000
