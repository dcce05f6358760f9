"""Every endpoint that takes credits takes them exactly, or says which field and limit."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.world import BILLING, World

SUBSCRIPTION = (
    '"org_id": "fresh-NUMBER", "plan_code": "trial", "org_name": "Fresh",'
    ' "billing_email": "a@b.cd", "user_id": "boss"'
)
# Endpoint -> path, name of the field, the rest of the body, where its millicredits end up.
ENDPOINTS = {
    "subscriptions": (
        "/subscriptions",
        "initial_credits",
        SUBSCRIPTION,
        "SELECT sum(total_credits)::bigint FROM organization_credit_pools"
        " WHERE org_id LIKE 'fresh-%'",
    ),
    "add": (
        "/credits/acme/add",
        "credits",
        '"purchase_amount": 1',
        "SELECT total_credits FROM organization_credit_pools WHERE org_id = 'acme'",
    ),
    "allocate": (
        "/credits/acme/allocate",
        "credits",
        '"user_id": "boss"',
        "SELECT allocated_credits FROM user_credit_allocations",
    ),
    "grant": (
        "/users/ann/credits",
        "credits",
        '"purchase_amount": 0',
        "SELECT allocated_credits FROM user_credit_allocations",
    ),
}
EXACT = {"0.003": 3, "5000.0": 5_000_000, "5000": 5_000_000, "1e1": 10_000, "0.0010": 1}
REFUSED = {
    "0.0029": "at most 3 decimals",
    "0": "more than 0 credits",
    "-0.001": "more than 0 credits",
    "1000000000.001": "at most 1000000000 credits",
    '"5"': "must be a JSON number",
    "NaN": "NaN is not a JSON number",
}


@pytest.fixture(params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> Any:
    return ENDPOINTS[request.param]


async def send(world: World, endpoint: Any, number: str) -> httpx.Response:
    path, field, rest, _ = endpoint
    rest = rest.replace("NUMBER", number.strip('"'))
    return await world.client.post(
        f"{BILLING}{path}",
        content=f'{{"{field}": {number}, {rest}}}',
        headers={**world.root, "Content-Type": "application/json"},
    )


async def test_exact(world: World, endpoint: Any) -> None:
    *_, query = endpoint
    assert (await world.subscribe(credits=10**6)).status_code == 200
    for number, millicredits in EXACT.items():
        before = await world.stores.pool.fetchval(query) or 0
        answer = await send(world, endpoint, number)
        assert answer.status_code == 200, answer.text
        assert await world.stores.pool.fetchval(query) == before + millicredits


async def test_refused(world: World, endpoint: Any) -> None:
    """Nothing changes, and the message names the field and its limit."""
    _, field, _, query = endpoint
    assert (await world.subscribe(credits=None)).status_code == 200
    before = await world.stores.pool.fetchval(query)
    for number, words in REFUSED.items():
        answer = await send(world, endpoint, number)
        assert answer.status_code == 422, (number, answer.text)
        message = answer.json()["detail"]
        assert words in message
        assert number == "NaN" or message.startswith(f"{field}: ")
    assert await world.stores.pool.fetchval(query) == before


async def test_caps_name_field_and_limit(world: World) -> None:
    """The caps of a pool and of an allocation, which are more than one request may bring."""
    assert (await world.subscribe(credits=10**9)).status_code == 200
    await world.stores.pool.execute(
        "UPDATE organization_credit_pools SET total_credits = 900000000000000"
    )
    answer = await send(world, ENDPOINTS["add"], "0.001")
    assert answer.status_code == 400
    document = answer.json()
    assert document["error"]["details"] == {"field": "credits", "limit": 900000000000.0}
    assert "900000000000.000" in document["detail"]
