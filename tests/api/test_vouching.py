"""Nobody adds credits that nobody vouches for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from support.world import BILLING, World

from taximeter.api.billing.payments import VerifiedPayment

ADD = f"{BILLING}/credits/acme/add"
PAID = VerifiedPayment("acme", Decimal("45.00"), 5_000_000)
BUY = {"credits": 5000.0, "purchase_amount": 45.0, "stripe_payment_id": "pi_paid"}


class Provider:
    """A payment provider that knows what was really paid."""

    name = "fake"

    def __init__(self) -> None:
        self.is_away = False

    async def find(self, payment_id: str) -> VerifiedPayment | None:
        if self.is_away:
            raise ConnectionRefusedError
        other = VerifiedPayment("other", Decimal("45.00"), 5_000_000)
        return {"pi_paid": PAID, "pi_of_another": other}.get(payment_id)


@pytest.fixture
def payments() -> Provider:
    return Provider()


async def total(world: World) -> int:
    query = "SELECT total_credits FROM organization_credit_pools WHERE org_id = 'acme'"
    found: int = await world.stores.pool.fetchval(query)
    return found


async def add(world: World, body: dict[str, Any], user: str = "boss") -> Any:
    headers = world.auth(user, system_admin=user == "root")
    return await world.client.post(ADD, json=body, headers=headers)


async def vouchers(world: World) -> list[tuple[str, str, str | None, str]]:
    rows = await world.stores.pool.fetch(
        "SELECT after ->> 'vouched_by', after ->> 'purchase_amount',"
        " after ->> 'stripe_payment_id', actor FROM taximeter.audit_log"
        " WHERE action = 'org.credits.purchased' ORDER BY id"
    )
    return [tuple(row) for row in rows]


INVENTED: list[dict[str, Any]] = [
    {"credits": 1000.0, "purchase_amount": 0.0},
    {"credits": 1000.0, "purchase_amount": 10.0},
    {"credits": 1000.0, "purchase_amount": 10.0, "stripe_payment_id": "pi_invented"},
    {**BUY, "stripe_payment_id": "pi_of_another"},
]


async def test_an_organizations_admin_cannot_mint(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for body in INVENTED:
        refused = await add(world, body)
        assert refused.status_code == 403, body
        assert refused.json()["error"]["code"] == "PERMISSION_DENIED"
    assert await total(world) == 100_000


@pytest.mark.parametrize("payments", [None])
async def test_nor_where_no_payment_can_be_verified(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for body in (*INVENTED, BUY):
        assert (await add(world, body)).status_code == 403, body
    assert await total(world) == 100_000


async def test_a_verified_payment_buys_what_it_has_paid_for_and_once(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for wrong in ({"credits": 5000.001}, {"credits": 1.0}, {"purchase_amount": 44.99}):
        refused = await add(world, {**BUY, **wrong})
        assert refused.status_code == 400, wrong
        assert refused.json()["error"]["details"]["field"] in wrong
    first, again = await add(world, BUY), await add(world, BUY)
    assert (first.status_code, first.json()) == (200, again.json())
    assert await total(world) == 5_100_000
    assert (await vouchers(world))[1:] == [("payment:fake", "45.00", "pi_paid", "boss")]
    metadata = await world.stores.pool.fetchval(
        "SELECT metadata ->> 'vouched_by' FROM org_billing_history"
        " WHERE stripe_payment_id = 'pi_paid'"
    )
    assert metadata == "payment:fake"


async def test_a_provider_that_is_away_adds_nothing(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    provider = world.app.state.services.payments
    provider.is_away = True
    refused = await add(world, BUY)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert await total(world) == 100_000
    assert (await add(world, BUY, "root")).status_code == 200, "a system admin asks nobody"


async def test_a_system_admin_vouches_and_the_log_says_so(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    claimed = {"credits": 1.0, "purchase_amount": 0.5, "stripe_payment_id": "pi_by_hand"}
    assert (await add(world, claimed, "root")).status_code == 200
    assert await vouchers(world) == [
        ("plan", "0", None, "root"),
        ("system_admin", "0.50", "pi_by_hand", "root"),
    ]
    granted = await world.client.post(
        f"{BILLING}/users/carol/credits", json={"credits": 2.0}, headers=world.root
    )
    assert granted.status_code == 200
    assert (await vouchers(world))[2][0] == "system_admin"


@pytest.mark.parametrize("api_options", [{"purchases_by_org_admins": True}])
async def test_a_setting_opens_it_to_admins_and_to_nobody_else(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    body = {"credits": 1.0, "purchase_amount": 0.0}
    assert (await add(world, body)).status_code == 200
    assert (await add(world, body, "ann")).status_code == 403
    assert (await add(world, body, "stranger")).status_code == 404
    assert (await vouchers(world))[1][0] == "setting:purchases_by_org_admins"
