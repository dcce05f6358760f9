"""The rows of subscriptions and credits that existing users rely on, field by field."""

from __future__ import annotations

import pytest
from support.contract import ALLOCATION, POOL, SUBSCRIPTION, Rows, call, has, keeper
from support.world import BILLING, World

ROWS: Rows = {}
row = keeper(ROWS)


@row("POST /subscriptions")
async def _subscribe(world: World) -> None:
    body = {
        "org_id": "acme",
        "plan_code": "professional",
        "org_name": "Acme",
        "billing_email": "a@b.cd",
        "initial_credits": 100.0,
        "user_id": "boss",
    }
    made = await call(world, "POST", "/subscriptions", body, by="root")
    has(made, "subscription credit_pool")
    has(made["subscription"], SUBSCRIPTION, org_id="acme", status="active", monthly_price=49.0)
    has(made["credit_pool"], POOL, total_credits=100.0, available_credits=100.0)
    members = await call(world, "GET", "/orgs/acme/members")
    assert [(one["user_id"], one["role"]) for one in members["members"]] == [("boss", "admin")]
    again = await call(world, "POST", "/subscriptions", body, by="root", status=409)
    assert again["error"]["code"] == "ALREADY_EXISTS"
    del body["initial_credits"]
    other = await call(world, "POST", "/subscriptions", {**body, "org_id": "other"}, by="root")
    assert other["credit_pool"]["total_credits"] == 0.0
    await call(world, "POST", "/subscriptions", {**body, "org_id": "third"}, status=403)


@row("GET /subscriptions/{org}")
async def _subscription(world: World) -> None:
    await world.funded()
    found = await call(world, "GET", "/subscriptions/acme", by="ann")
    has(found, "subscription lago_status next_billing_date outstanding_balance")
    has(found["subscription"], SUBSCRIPTION, plan_code="professional")
    assert found["next_billing_date"] == found["subscription"]["billing_cycle_end"]
    assert found["outstanding_balance"] == 0.0
    await call(world, "GET", "/subscriptions/nowhere", status=404)


@row("PUT /subscriptions/{org}/upgrade")
async def _upgrade(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    path = "/subscriptions/acme/upgrade"
    for plan in ("unknown", "starter"):
        refused = await call(world, "PUT", path, {"new_plan_code": plan}, status=400)
        assert refused["error"]["code"] == "INVALID_REQUEST"
    done = await call(world, "PUT", path, {"new_plan_code": "enterprise"})
    has(done, "subscription price_change")
    has(done["subscription"], SUBSCRIPTION, plan_code="enterprise")
    has(done["price_change"], "old_price new_price proration", old_price=49.0, new_price=99.0)
    assert 0 < done["price_change"]["proration"] <= 50.0


@row("DELETE /subscriptions/{org}")
async def _cancel(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    done = await call(world, "DELETE", "/subscriptions/acme")
    assert done["subscription"]["status"] == "active", "until the period ends"
    assert done["effective_date"] == done["subscription"]["billing_cycle_end"]
    history = await call(world, "GET", "/acme/history?event_type=subscription_canceled")
    assert history["total"] == 1


@row("GET /credits/{org}")
async def _pool(world: World) -> None:
    await world.funded("ann", 25.0)
    assert (await world.chat()).status_code == 200
    await world.settle()
    found = await call(world, "GET", "/credits/acme", by="ann")
    has(found, f"org_id {POOL} monthly_refresh_amount last_refresh_date")
    has(found, "allocation_percentage usage_percentage", org_id="acme", total_credits=100.0)
    assert found["allocation_percentage"] == 25.0
    assert found["usage_percentage"] == round(100 * found["used_credits"] / 25, 2)
    assert found["used_credits"] > 0


@row("POST /credits/{org}/add")
async def _add(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    body = {"credits": 5000.0, "purchase_amount": 45.5, "stripe_payment_id": "pi_1"}
    first = await call(world, "POST", "/credits/acme/add", body, by="root")
    has(first, "pool transaction")
    has(first["pool"], POOL, total_credits=5000.0)
    has(first["transaction"], "id created_at", event_type="credits_purchased", credits=5000.0)
    assert first["transaction"]["amount"] == 45.5
    assert await call(world, "POST", "/credits/acme/add", body, by="root") == first
    await call(world, "POST", "/credits/acme/add", {**body, "credits": 1.0}, by="root", status=409)
    del body["stripe_payment_id"]
    more = await call(world, "POST", "/credits/acme/add", body, by="root")
    assert more["pool"]["total_credits"] == 10000.0


@row("POST /credits/{org}/allocate")
async def _allocate(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    body = {
        "user_id": "ann",
        "credits": 40.0,
        "expires_at": "2999-01-01T00:00:00Z",
        "auto_renew": True,
    }
    path = "/credits/acme/allocate"
    done = await call(world, "POST", path, body)
    has(done["allocation"], f"{ALLOCATION} id", allocated_credits=40.0, auto_renew=True)
    has(done["pool_updated"], "", allocated_credits=40.0, available_credits=60.0)
    refused = await call(world, "POST", path, {"user_id": "ann", "credits": 60.001}, status=400)
    assert refused["error"]["code"] == "INSUFFICIENT_CREDITS"
    await call(world, "POST", path, {"user_id": "bob", "credits": 1.0}, status=404)


@row("GET /credits/{org}/allocations")
async def _allocations(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.allocate("bob", 5.0)).status_code == 200
    path = "/credits/acme/allocations"
    found = await call(world, "GET", path)
    has(found, "allocations", total=2, limit=50, offset=0)
    for one in found["allocations"]:
        has(one, ALLOCATION)
    page = await call(world, "GET", f"{path}?limit=1&offset=1")
    assert (len(page["allocations"]), page["total"], page["offset"]) == (1, 2, 1)
    assert (await call(world, "GET", f"{path}?user_id=bob"))["total"] == 1
    assert (await call(world, "GET", f"{path}?is_active=false"))["total"] == 0
    assert (await call(world, "GET", path, by="ann"))["total"] == 1
    await call(world, "GET", f"{path}?limit=101", status=422)


@row("POST /credits/{org}/transfer")
async def _transfer(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    path, body = "/credits/acme/transfer", {"from_user_id": "ann", "to_user_id": "bob"}
    done = await call(world, "POST", path, {**body, "credits": 5.0})
    has(done, "", success=True, transferred_credits=5.0, from_user_id="ann", to_user_id="bob")
    refused = await call(world, "POST", path, {**body, "credits": 15.001}, status=400)
    assert refused["detail"].startswith("Insufficient credits to transfer")
    stranger = {"from_user_id": "ann", "to_user_id": "nobody", "credits": 1.0}
    await call(world, "POST", path, stranger, status=400)
    allocations = await call(world, "GET", "/credits/acme/allocations")
    found = {one["user_id"]: one["allocated_credits"] for one in allocations["allocations"]}
    assert found == {"ann": 15.0, "bob": 5.0}
    assert (await call(world, "GET", "/credits/acme/usage"))["total_requests"] == 0
    await world.prove()


@row("POST /credits/{org}/deallocate")
async def _deallocate(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.chat()).status_code == 200
    used = 20.0 - (await world.balance()).available / 1000
    path = "/credits/acme/deallocate"
    refused = await call(world, "POST", path, {"user_id": "ann", "credits": 20.0}, status=400)
    assert refused["error"]["code"] == "INSUFFICIENT_CREDITS", "never below what is used"
    done = await call(world, "POST", path, {"user_id": "ann", "credits": 15.0})
    assert done["pool_updated"]["available_credits"] == 95.0
    assert (await world.balance()).available / 1000 == round(5.0 - used, 3)
    await world.prove()


@pytest.mark.parametrize("name", ROWS)
async def test_row(world: World, name: str) -> None:
    await ROWS[name](world)


async def test_a_user_id_may_have_what_some_locales_take_for_control_characters(
    world: World,
) -> None:
    """The database refused them, as an error of ours."""
    await world.funded("ann", 50.0)
    for user_id in ("\u0098\u00e8", "\u200d", "x\u2028y", "\U000cef91"):
        response = await world.client.post(
            f"{BILLING}/orgs/acme/members", json={"user_id": user_id}, headers=world.auth("boss")
        )
        assert response.status_code == 200, response.text
        assert response.json()["member"]["user_id"] == user_id
