"""The rows of usage, history, dashboards and members that existing users rely on."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from support.contract import ALLOCATION, POOL, Rows, call, has, keeper
from support.world import World

ROWS: Rows = {}
row = keeper(ROWS)


@row("GET /credits/{org}/usage")
async def _usage(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.chat()).status_code == 200
    await world.settle()
    path = "/credits/acme/usage"
    found = await call(world, "GET", path)
    has(found, "total_credits_used breakdown_by_service breakdown_by_user", total_requests=1)
    service = found["breakdown_by_service"]["llm_inference"]
    has(service, "credits_used avg_cost_per_request", requests=1)
    [user] = found["breakdown_by_user"]
    has(user, "user_email credits_used", user_id="ann", requests=1, percentage=100.0)
    [day] = [one for one in found["breakdown_by_day"] if one["requests"]]
    has(day, "date credits_used", requests=1)
    last, first = (date.fromisoformat(found[name]) for name in ("end_date", "start_date"))
    assert last - first == timedelta(days=29)
    for group_by in ("user", "service", "model", "key", "tag", "day", "week", "month"):
        await call(world, "GET", f"{path}?group_by={group_by}")
    assert (await call(world, "GET", f"{path}?user_id=boss"))["total_requests"] == 0
    assert (await call(world, "GET", f"{path}?service_type=other"))["total_requests"] == 0
    days = "start_date=2001-01-01&end_date=2001-01-02"
    assert (await call(world, "GET", f"{path}?{days}"))["total_requests"] == 0
    assert (await call(world, "GET", path, by="ann"))["total_requests"] == 1
    await call(world, "GET", f"{path}?user_id=boss", by="ann", status=403)


@row("GET /{org}/history, /billing/{org}/history")
async def _history(world: World) -> None:
    await world.funded()
    for kind in ("invoice_paid", "invoice_failed"):
        await world.stores.pool.execute(
            "INSERT INTO org_billing_history (org_id, event_type, amount, lago_invoice_id)"
            " VALUES ('acme', $1, 49, 'inv_1')",
            kind,
        )
    body = {"new_plan_code": "enterprise"}
    await call(world, "PUT", "/subscriptions/acme/upgrade", body)
    await call(world, "DELETE", "/subscriptions/acme")
    found = await call(world, "GET", "/acme/history", by="ann")
    has(found, "history", limit=20, offset=0, total=6)
    assert {one["event_type"] for one in found["history"]} == {
        "subscription_created",
        "subscription_upgraded",
        "subscription_canceled",
        "credits_purchased",
        "invoice_paid",
        "invoice_failed",
    }
    for one in found["history"]:
        has(one, "id event_type amount currency lago_invoice_id stripe_payment_id status metadata")
        has(one, "created_at", currency="USD")
    assert await call(world, "GET", "/billing/acme/history") == found
    only = await call(world, "GET", "/acme/history?event_type=invoice_paid&limit=1")
    assert [one["lago_invoice_id"] for one in only["history"]] == ["inv_1"]
    assert (only["total"], only["limit"]) == (1, 1)
    assert (await call(world, "GET", "/acme/history?offset=5"))["history"][0]["event_type"]
    await call(world, "GET", "/acme/history?limit=101", status=422)


@row("GET /billing/user")
async def _billing_of_user(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.subscribe("other", "ann")).status_code == 200
    assert (await world.chat()).status_code == 200
    await world.settle()
    found = await call(world, "GET", "/billing/user", by="ann")
    has(found, "organizations totals usage_last_30_days", user_id="ann")
    acme, other = found["organizations"]
    has(acme, "org_name", org_id="acme", role="member")
    has(acme["subscription"], "plan_name monthly_price", plan_code="professional", status="active")
    has(acme["allocation"], "used_credits remaining_credits", allocated_credits=20.0)
    subscription = (await call(world, "GET", "/subscriptions/acme"))["subscription"]
    assert acme["next_reset_date"] == subscription["billing_cycle_end"]
    has(other, "org_name", org_id="other", role="admin", allocation=None)
    live = await world.balance()
    has(found["totals"], "used_credits", organizations=2, allocated_credits=20.0)
    assert found["totals"]["remaining_credits"] == live.available / 1000
    usage = found["usage_last_30_days"]
    has(usage, "avg_cost_per_request", total_requests=1)
    assert usage["total_credits"] == acme["allocation"]["used_credits"] > 0


@row("GET /billing/org/{org}")
async def _billing_of_org(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.chat()).status_code == 200
    await world.settle()
    found = await call(world, "GET", "/billing/org/acme")
    has(found, "organization subscription credit_pool user_allocations recent_activity")
    has(found["organization"], "org_name")
    has(found["subscription"], "plan_code plan_name monthly_price status")
    has(found["credit_pool"], POOL)
    has(found["user_allocations"][0], ALLOCATION)
    stats = found["usage_stats"]["last_30_days"]
    has(stats, "total_credits by_service by_user", total_requests=1)
    assert found["recent_activity"]
    await call(world, "GET", "/billing/org/acme", by="ann", status=403)


@row("GET /billing/system")
async def _billing_of_system(world: World) -> None:
    await world.funded("ann", 20.0)
    found = await call(world, "GET", "/billing/system", by="root")
    has(found, "metrics subscription_distribution top_organizations usage_trends")
    has(
        found["metrics"],
        "total_credits_used",
        total_organizations=1,
        active_subscriptions=1,
        total_mrr=49.0,
        total_arr=588.0,
        total_credits_allocated=20.0,
    )
    assert found["subscription_distribution"] == {"professional": {"count": 1, "mrr": 49.0}}
    assert len(found["usage_trends"]["last_7_days"]) == 7
    await call(world, "GET", "/billing/system", status=403)


@row("GET, POST, DELETE /orgs/{org}/members")
async def _members(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    invited = await call(world, "POST", "/orgs/acme/members", {"user_id": "ann"})
    has(invited["member"], "", user_id="ann", status="invited", user_email=None)
    assert (await call(world, "GET", "/orgs/acme/members"))["total"] == 1
    await call(world, "POST", "/invitations/acme/accept", by="ann")
    made = await call(world, "POST", "/orgs/acme/members", {"user_id": "ann"})
    has(made["member"], "created_at", user_id="ann", role="member", status="active")
    found = await call(world, "GET", "/orgs/acme/members")
    has(found, "members", total=2, limit=50, offset=0)
    assert (await call(world, "GET", "/orgs/acme/members?limit=1&offset=1"))["total"] == 2
    await call(world, "DELETE", "/orgs/acme/members/ann")
    await call(world, "DELETE", "/orgs/acme/members/ann", status=404)
    assert (await call(world, "GET", "/orgs/acme/members"))["total"] == 1


@row("GET /api/v1/system/status")
async def _status(world: World) -> None:
    answer = await world.client.get("/api/v1/system/status")
    assert answer.status_code == 200
    has(answer.json(), "status postgres redis settler")


@row("GET /api/v1/auth/user")
async def _me(world: World) -> None:
    await world.funded()
    answer = await world.client.get("/api/v1/auth/user", headers=world.auth("ann"))
    has(answer.json(), "email name organizations", user_id="ann", is_system_admin=False)
    anonymous = await world.client.get("/api/v1/auth/user")
    assert anonymous.status_code == 401


@pytest.mark.parametrize("name", ROWS)
async def test_row(world: World, name: str) -> None:
    await ROWS[name](world)
