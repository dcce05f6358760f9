"""Organisations as system admins see, correct, suspend and end them."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.routes import organizations
from taximeter.settler.moves import closing
from taximeter.settler.moves.closing import Closed, Turn, close_all


async def call(
    world: World, method: str, path: str, body: Any = None, *, by: str = "root", status: int = 200
) -> Any:
    headers = world.auth(by, system_admin=by == "root")
    answer = await world.client.request(method, f"{BILLING}{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def actions(world: World, org: str = "acme") -> list[str]:
    rows = await world.stores.pool.fetch(
        "SELECT action FROM taximeter.audit_log WHERE org_id = $1 ORDER BY id", org
    )
    return [row["action"] for row in rows]


async def ids(world: World, query: str) -> list[str]:
    found = await call(world, "GET", f"/orgs?{query}")
    return [one["org_id"] for one in found["organizations"]]


async def test_they_are_searched_sorted_and_paged(world: World) -> None:
    for org, credits in (("acme", 5.0), ("beta", 100.0), ("a_b", 1.0)):
        assert (await world.subscribe(org, credits=credits)).status_code == 200
    await call(world, "POST", "/users/ann/credits", {"credits": 1.0})
    assert await ids(world, "sort=created_at&order=asc") == ["acme", "beta", "a_b"]
    assert await ids(world, "sort=total_credits") == ["beta", "acme", "a_b"]
    assert await ids(world, "sort=name&order=asc") == ["a_b", "acme", "beta"]
    assert await ids(world, "sort=available_credits&order=asc&limit=1&offset=1") == ["acme"]
    assert await ids(world, "search=BET") == ["beta"]
    assert await ids(world, "search=_") == ["a_b"], "a sign of patterns is only itself"
    assert await ids(world, "search=billing%40example&sort=name&order=asc&limit=2") == [
        "a_b",
        "acme",
    ]
    assert await ids(world, "plan_code=trial") == []
    assert await ids(world, "personal=true&search=personal") == ["personal:ann"]
    page = await call(world, "GET", "/orgs?limit=1")
    assert (page["total"], len(page["organizations"])) == (3, 1)
    [line] = (await call(world, "GET", "/orgs?search=beta"))["organizations"]
    assert (line["state"], line["plan_code"]) == ("active", "professional")
    assert line["credit_pool"]["total_credits"] == 100.0
    await call(world, "GET", "/orgs?sort=slug", status=422)


async def test_plans_are_listed_with_their_prices(world: World) -> None:
    plans = (await call(world, "GET", "/plans", by="anybody"))["plans"]
    assert [(one["plan_code"], one["monthly_price"]) for one in plans] == [
        ("trial", 1.0),
        ("starter", 19.0),
        ("professional", 49.0),
        ("enterprise", 99.0),
    ]


async def test_name_and_billing_address_are_seen_and_changed(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    seen = await call(world, "GET", "/orgs/acme", by="boss")
    assert seen["billing_email"] == "billing@example.com"
    assert (await call(world, "GET", "/orgs/acme", by="ann"))["billing_email"] is None
    changed = await call(world, "PATCH", "/orgs/acme", {"org_name": "Acme 2"}, by="boss")
    assert (changed["org_name"], changed["billing_email"]) == ("Acme 2", "billing@example.com")
    body = {"billing_email": "money@acme.example"}
    assert (await call(world, "PATCH", "/orgs/acme", body, by="boss"))["org_name"] == "Acme 2"
    seen = await call(world, "GET", "/orgs/acme", by="boss")
    assert seen["billing_email"] == "money@acme.example"
    await call(world, "PATCH", "/orgs/acme", {}, by="boss", status=422)
    await call(world, "PATCH", "/orgs/acme", {"billing_email": "nobody"}, by="boss", status=422)
    await call(world, "POST", "/users/ann/credits", {"credits": 1.0})
    await call(world, "PATCH", "/orgs/personal:ann", {"org_name": "X"}, status=409)
    assert (await actions(world)).count("org.changed") == 2


async def test_who_subscribes_again_under_another_name_has_it(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.stores.pool.execute("UPDATE organization_subscriptions SET status = 'canceled'")
    body = {
        "org_id": "acme",
        "plan_code": "starter",
        "org_name": "New Acme",
        "billing_email": "a@b.cd",
        "user_id": "boss",
    }
    await call(world, "POST", "/subscriptions", body)
    seen = await call(world, "GET", "/orgs/acme", by="boss")
    assert (seen["org_name"], seen["billing_email"]) == ("New Acme", "a@b.cd")
    assert "org.changed" in await actions(world)


async def test_a_cancellation_is_undone(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await call(world, "DELETE", "/subscriptions/acme", by="boss")
    for _ in range(2):
        done = await call(world, "POST", "/subscriptions/acme/resume", by="boss")
        assert done["subscription"]["cancel_at_period_end"] is False
    found = await call(world, "GET", "/subscriptions/acme", by="boss")
    assert found["next_billing_date"] == found["subscription"]["billing_cycle_end"]
    history = await call(world, "GET", "/acme/history?event_type=subscription_resumed", by="boss")
    assert history["total"] == 1
    await world.stores.pool.execute("UPDATE organization_subscriptions SET status = 'canceled'")
    await call(world, "POST", "/subscriptions/acme/resume", by="boss", status=409)


async def suspend(world: World, suspended: bool) -> Any:
    body = {"suspended": suspended, "reason": "unpaid"}
    return await call(world, "PUT", "/orgs/acme/suspension", body)


async def test_nobody_spends_or_changes_anything_of_a_suspended_organization(world: World) -> None:
    await world.funded("ann", 20.0)
    made = await call(
        world,
        "POST",
        "/orgs/acme/keys",
        {"name": "k", "operations": ["llm"], "user_id": "ann"},
        by="boss",
    )
    key = {"Authorization": f"Bearer {made['key']}"}
    assert (await suspend(world, True))["state"] == "suspended"
    refused = await world.chat()
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "ORGANIZATION_SUSPENDED"

    async def key_is_refused() -> bool:
        return (await world.chat(headers=key)).status_code == 401

    await eventually(key_is_refused, what="a key that opens nothing any more")
    body = {"user_id": "ann", "credits": 1.0}
    refused_change = await call(
        world, "POST", "/credits/acme/allocate", body, by="boss", status=403
    )
    assert refused_change["error"]["code"] == "ORGANIZATION_SUSPENDED"
    await call(world, "GET", "/credits/acme", by="boss")
    await call(world, "POST", "/credits/acme/allocate", body)
    assert (await suspend(world, False))["state"] == "active"
    assert (await world.chat()).status_code == 200

    async def key_is_good() -> bool:
        return (await world.chat(headers=key)).status_code == 200

    await eventually(key_is_good, what="a key that is good again")
    log = await actions(world)
    assert (log.count("org.suspended"), log.count("org.suspension.lifted")) == (1, 1)
    await world.prove()


async def test_own_credits_pay_while_an_organization_is_suspended(world: World) -> None:
    await world.funded("ann", 20.0)
    await call(world, "POST", "/users/ann/credits", {"credits": 5.0})
    await suspend(world, True)
    assert (await world.chat()).status_code == 200
    assert len(await world.charges("personal:ann")) == 1
    named = await world.chat(headers={"X-Org-Id": "acme"})
    assert named.json()["error"]["code"] == "ORGANIZATION_SUSPENDED"


async def test_an_organization_ends_and_its_books_stay(world: World) -> None:
    """What is left returns to the pool, what runs is charged, and the proof holds."""
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    await world.allocate("bob", 3.0)
    assert (await world.chat()).status_code == 200
    meter = await world.app.state.services.meters.get()
    hold = await meter.reserve("acme", "ann", 1_000)
    body = {"reason": "asked for", "confirm_org_id": "acm"}
    await call(world, "POST", "/orgs/acme/delete", body, status=400)
    body["confirm_org_id"] = "acme"
    done = await call(world, "POST", "/orgs/acme/delete", body)
    assert done["organization"]["state"] == "deleted"
    assert done["closing_allocations"] == 2
    await call(world, "POST", "/orgs/acme/delete", body, status=409)
    for user in ("ann", "boss"):
        await call(world, "GET", "/credits/acme", by=user, status=404)
    assert (await world.chat()).status_code == 403
    await hold.commit(400)
    await close_all(world.settling, Closed())
    await world.settle()
    await close_all(world.settling, Closed())
    pool = await call(world, "GET", "/credits/acme")
    usage = await call(world, "GET", "/credits/acme/usage")
    assert pool["used_credits"] == usage["total_credits_used"] > 0.4
    assert pool["available_credits"] == round(100.0 - pool["used_credits"], 3)
    active = "SELECT count(*) FROM user_credit_allocations WHERE is_active"
    assert await world.stores.pool.fetchval(active) == 0
    again = await world.subscribe()
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "ORGANIZATION_DELETED"
    bought = {"credits": 1.0, "purchase_amount": 1.0}
    await call(world, "POST", "/credits/acme/add", bought, status=409)
    assert await ids(world, "state=deleted") == ["acme"]
    await world.prove()


async def test_an_organization_of_many_ends_in_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once for everybody who asks; nobody waits for a lock on all of its accounts, and whoever
    comes next goes on where the one before was cut off.
    """
    monkeypatch.setattr(closing, "BATCH", 2)
    monkeypatch.setattr(organizations, "ENDED_AT_ONCE", 1)
    await world.funded("ann", 20.0)
    users = [f"user{number}" for number in range(6)]
    for user in users:
        await world.add_member(user)
        await world.allocate(user, 3.0)
    meter = await world.app.state.services.meters.get()
    hold = await meter.reserve("acme", "user5", 1_000)
    done = await call(
        world, "POST", "/orgs/acme/delete", {"reason": "asked for", "confirm_org_id": "acme"}
    )
    assert done["closing_allocations"] == 7
    left = "SELECT count(*) FROM user_credit_allocations WHERE closing IS NULL AND is_active"
    pool = world.stores.pool
    assert await pool.fetchval(left) == 5
    assert (await world.chat()).status_code == 403
    await call(world, "GET", "/credits/acme", by="ann", status=404)
    # One of its accounts is busy: the settler goes on with those of others, one batch each.
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM taximeter.endings FOR UPDATE")
        assert await closing.go_on_ending(world.settling) == 0
        assert await pool.fetchval(left) == 5
    rounds = 0
    while await closing.go_on_ending(world.settling):
        rounds += 1
        assert await pool.fetchval(left) == max(0, 5 - 2 * rounds)
    assert rounds >= 2
    assert await pool.fetchval("SELECT count(*) FROM taximeter.endings") == 0
    active = "SELECT count(*) FROM organization_members WHERE status <> 'removed'"
    assert await pool.fetchval(active) == 0
    await hold.commit(400)
    await world.settle()
    # A round ends when its time is over, and the next one goes on.
    turn, closed = Turn(), Closed()
    taken: list[int] = []
    for _ in range(7):
        await close_all(world.settling, closed, turn, budget_s=0.0)
        taken.append(closed.returned)
    assert taken == sorted(set(taken))
    assert await pool.fetchval("SELECT count(*) FROM user_credit_allocations WHERE is_active") == 0
    await world.prove()


async def test_nobody_deletes_somebodys_own_credits(world: World) -> None:
    await call(world, "POST", "/users/ann/credits", {"credits": 1.0})
    body = {"reason": "x", "confirm_org_id": "personal:ann"}
    await call(world, "POST", "/orgs/personal:ann/delete", body, status=409)


@pytest.mark.parametrize("api_options", [{"rate_limits": True}])
async def test_thirty_teams_are_made_in_one_go_and_a_mistake_does_not_count(world: World) -> None:
    services = world.app.state.services
    assert services.limiter._limits["admin_subscriptions"].count == 1000
    for number in range(30):
        assert (await world.subscribe(f"team-{number}")).status_code == 200
    key = f"{world.settings.key_prefix}:limit:admin_subscriptions:root"
    assert await world.stores.redis.llen(key) == 30
    assert (await world.subscribe("team-1")).status_code == 409
    await call(world, "POST", "/subscriptions", {"org_id": "x"}, status=422)
    await call(
        world,
        "POST",
        "/subscriptions",
        {
            "org_id": "x",
            "plan_code": "none",
            "org_name": "X",
            "billing_email": "a@b.cd",
            "user_id": "u",
        },
        status=400,
    )
    assert await world.stores.redis.llen(key) == 30


@pytest.mark.parametrize(
    "api_options", [{"rate_limits": True, "rate_limit_admin_subscriptions_per_hour": 2}]
)
async def test_the_setting_for_system_admins_counts(world: World) -> None:
    statuses = [(await world.subscribe(f"team-{number}")).status_code for number in range(3)]
    assert statuses == [200, 200, 429]
