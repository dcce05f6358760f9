"""The dashboards of organisations and of the system: what they show, and that it adds up."""

from __future__ import annotations

import datetime as dt
from typing import Any

from support.world import BILLING, World

from taximeter.api.routes.overview import TOP_MAX
from taximeter.api.sql import DASHBOARDS
from taximeter.meter import Usage

FIRST, LAST = dt.date(2025, 5, 20), dt.date(2025, 6, 18)


async def charge(world: World, user: str, millicredits: int, service: str, org: str) -> None:
    meter = await world.app.state.services.meters.get()
    usage = Usage(service_type=service, service_name="model")
    await meter.charge(org, user, millicredits, usage=usage)


async def get(world: World, path: str, headers: dict[str, str]) -> Any:
    response = await world.client.get(f"{BILLING}{path}", headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_dashboard_of_an_organization(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.allocate("bob", 5.0)).status_code == 200
    await world.settle()
    await charge(world, "ann", 1500, "llm_inference", "acme")
    await charge(world, "ann", 500, "llm_inference", "acme")
    await charge(world, "bob", 256, "image_generation", "acme")
    found = await get(world, "/billing/org/acme", world.auth("boss"))
    assert found["complete"] is True
    assert found["organization"]["org_id"] == "acme"
    assert found["organization"]["org_name"] == "The acme company"
    subscription = found["subscription"]
    assert subscription["plan_code"] == "professional"
    assert (subscription["monthly_price"], subscription["status"]) == (49.0, "active")
    assert subscription["next_billing_date"] > dt.datetime.now(dt.UTC).date().isoformat()
    pool = found["credit_pool"]
    assert (pool["total_credits"], pool["allocated_credits"]) == (100.0, 25.0)
    assert (pool["used_credits"], pool["available_credits"]) == (2.256, 75.0)
    assert found["user_allocations_total"] == 2
    allocations = {one["user_id"]: one for one in found["user_allocations"]}
    assert allocations["ann"]["live"] is True
    assert allocations["ann"]["remaining_credits"] == 18.0
    assert allocations["ann"]["used_credits"] == 2.0
    assert allocations["bob"]["remaining_credits"] == 4.744
    assert found["usage_stats"]["last_30_days"] == {
        "total_credits": 2.256,
        "total_requests": 3,
        "by_service": {
            "llm_inference": {"credits": 2.0, "requests": 2},
            "image_generation": {"credits": 0.256, "requests": 1},
        },
        "by_user": [
            {"user_id": "ann", "user_email": None, "credits": 2.0, "requests": 2},
            {"user_id": "bob", "user_email": None, "credits": 0.256, "requests": 1},
        ],
        "by_user_left_out": False,
    }
    activity = {one["event_type"]: one for one in found["recent_activity"]}
    assert activity["credits_purchased"]["credits"] == 100.0
    assert activity["subscription_created"]["amount"] == 49.0


async def test_an_organization_without_anything_has_a_dashboard(world: World) -> None:
    pool = world.stores.pool
    await pool.execute("INSERT INTO organizations VALUES ('bare', 'Bare', 'bare', 'boss')")
    await pool.execute("INSERT INTO organization_members VALUES ('bare', 'boss', 'admin')")
    found = await get(world, "/billing/org/bare", world.auth("boss"))
    assert found["subscription"] is None
    assert found["credit_pool"]["total_credits"] == 0.0
    assert (found["user_allocations"], found["recent_activity"]) == ([], [])
    assert found["usage_stats"]["last_30_days"]["total_requests"] == 0
    missing = await world.client.get(f"{BILLING}/billing/org/nowhere", headers=world.root)
    assert missing.status_code == 404


async def test_the_dashboard_of_the_system(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.funded("ann", 10.0, org="beta")
    assert (await world.subscribe("gone")).status_code == 200
    await world.stores.pool.execute(
        "UPDATE organization_subscriptions SET status = 'canceled' WHERE org_id = 'gone'"
    )
    await world.stores.pool.execute(
        "UPDATE organization_subscriptions SET plan_code = 'starter', monthly_price = 19"
        " WHERE org_id = 'beta'"
    )
    await charge(world, "ann", 1000, "llm_inference", "acme")
    await charge(world, "ann", 3000, "llm_inference", "beta")
    found = await get(world, "/billing/system", world.root)
    assert found["complete"] is True
    assert found["metrics"] == {
        "total_organizations": 3,
        "active_subscriptions": 2,
        "total_mrr": 68.0,
        "total_arr": 816.0,
        "total_credits": 300.0,
        "total_credits_allocated": 30.0,
        "total_credits_used": 4.0,
    }
    assert found["subscription_distribution"] == {
        "professional": {"count": 1, "mrr": 49.0},
        "starter": {"count": 1, "mrr": 19.0},
    }
    top = found["top_organizations"]
    assert [(one["org_id"], one["credits_used_30d"]) for one in top] == [
        ("beta", 3.0),
        ("acme", 1.0),
    ]
    assert (top[0]["org_name"], top[0]["plan_code"], top[0]["mrr"]) == (
        "The beta company",
        "starter",
        19.0,
    )
    days = found["usage_trends"]["last_7_days"]
    today = dt.datetime.now(dt.UTC).date()
    assert [one["date"] for one in days] == [
        (today - dt.timedelta(days=back)).isoformat() for back in range(6, -1, -1)
    ]
    assert [one["total_requests"] for one in days] == [0] * 6 + [2]
    assert days[-1]["total_credits"] == 4.0


async def use(world: World, org: str, day: dt.date, millicredits: int) -> None:
    await world.stores.pool.execute(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, credits_used, created_at)"
        " VALUES ($1, 'ann', 'by_hand', $2, $3::date::timestamp AT TIME ZONE 'UTC')",
        org,
        millicredits,
        day,
    )


async def top_organizations(world: World) -> list[tuple[str, int]]:
    rows = await world.stores.pool.fetch(DASHBOARDS["top_organizations"], FIRST, LAST, TOP_MAX)
    return [(row["org_id"], row["credits_used"]) for row in rows]


async def test_the_top_is_of_the_range_and_not_of_its_months(world: World) -> None:
    """Many organisations used much just before the range, in a month that it touches."""
    await world.stores.pool.execute(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, credits_used, created_at)"
        " SELECT 'early-' || n, 'ann', 'by_hand', 1000000, '2025-05-19 12:00+00'"
        "   FROM generate_series(1, 60) AS n"
    )
    for number in range(15):
        await use(world, f"org-{number:02}", FIRST + dt.timedelta(days=number), 100 + number)
    await use(world, "org-00", LAST, 1000)
    await use(world, "org-14", LAST + dt.timedelta(days=1), 1000)
    expected = [("org-00", 1100), *((f"org-{n:02}", 100 + n) for n in range(14, 5, -1))]
    assert await top_organizations(world) == expected


async def test_nobody_is_at_the_top_of_an_unused_system(world: World) -> None:
    assert await top_organizations(world) == []
