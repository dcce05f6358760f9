"""Pools and allocations over HTTP: exact numbers, one purchase a payment, no more than there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, World

CREDITS = f"{BILLING}/credits/acme"


async def send(world: World, path: str, raw: str, **headers: str) -> Any:
    return await world.client.post(
        f"{CREDITS}/{path}",
        content=raw,
        headers={"Content-Type": "application/json", **world.root, **headers},
    )


async def test_a_subscription_in_full(world: World) -> None:
    response = await world.subscribe(credits=5000.0)
    assert response.status_code == 200
    assert '"total_credits":5000.0' in response.text
    document = response.json()
    assert document["credit_pool"] == {
        "total_credits": 5000.0,
        "allocated_credits": 0.0,
        "used_credits": 0.0,
        "available_credits": 5000.0,
    }
    subscription = document["subscription"]
    assert subscription["plan_name"] == "Professional"
    assert subscription["monthly_price"] == 49.0
    assert subscription["status"] == "active"
    assert subscription["lago_subscription_id"] is None
    assert subscription["billing_cycle_start"] < subscription["billing_cycle_end"]
    row = await world.stores.pool.fetchrow(
        "SELECT actor, target FROM taximeter.audit_log WHERE action = 'org.subscription.created'"
    )
    assert row is not None
    assert tuple(row) == ("root", "boss")
    assert (await world.subscribe()).status_code == 409
    kinds = await world.stores.pool.fetch("SELECT event_type FROM org_billing_history ORDER BY 1")
    assert [row[0] for row in kinds] == ["credits_purchased", "subscription_created"]


async def test_one_of_many_subscriptions_at_once_is_made(world: World) -> None:
    responses = await asyncio.gather(*(world.subscribe(credits=10.0) for _ in range(8)))
    assert sorted(one.status_code for one in responses) == [200] + [409] * 7
    pool = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert pool["total_credits"] == 10.0


async def test_a_canceled_subscription_starts_again(world: World) -> None:
    assert (await world.subscribe(credits=10.0)).status_code == 200
    await world.stores.pool.execute("UPDATE organization_subscriptions SET status = 'canceled'")
    assert (await world.subscribe(credits=None)).status_code == 200
    pool = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert pool["total_credits"] == 10.0


BAD_SUBSCRIPTIONS: list[Any] = [
    ({"plan_code": "gold"}, 400, "plan_code"),
    ({"org_id": "a/b"}, 422, "org_id"),
    ({"org_id": ""}, 422, "org_id"),
    ({"org_id": "x" * 129}, 422, "org_id"),
    ({"org_name": "a\u0000b"}, 422, "org_name"),
    ({"org_name": "\ud800"}, 422, "org_name"),
    ({"billing_email": "nobody"}, 422, "billing_email"),
    ({"user_id": "a\nb"}, 422, "user_id"),
    ({"user_id": 5}, 422, "user_id"),
    ({"initial_credits": -1}, 422, "initial_credits"),
    ({"price": 0}, 422, "price"),
]


async def test_a_bad_subscription_names_the_field(world: World) -> None:
    for change, status, field in BAD_SUBSCRIPTIONS:
        body = {
            "org_id": "acme",
            "plan_code": "trial",
            "org_name": "Acme",
            "billing_email": "a@b.cd",
            "user_id": "boss",
            **change,
        }
        response = await world.client.post(
            f"{BILLING}/subscriptions",
            content=json.dumps(body),
            headers={"Content-Type": "application/json", **world.root},
        )
        assert response.status_code == status, response.text
        assert field in response.json()["detail"]


@pytest.mark.parametrize(
    ("number", "millicredits"),
    [("0.003", 3), ("5000.0", 5_000_000), ("1e1", 10_000), ("0.0030", 3), ("1000000000", 10**12)],
)
async def test_credits_are_exact(world: World, number: str, millicredits: int) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    response = await send(world, "add", f'{{"credits": {number}, "purchase_amount": 1}}')
    assert response.status_code == 200, response.text
    total = await world.stores.pool.fetchval("SELECT total_credits FROM organization_credit_pools")
    assert total == millicredits
    assert response.json()["pool"]["total_credits"] == millicredits / 1000
    assert response.json()["transaction"]["credits"] == millicredits / 1000


BAD_CREDITS: list[Any] = [
    ("0.0029", "at most 3 decimals"),
    ("0.00300000000000000000000000001", "at most 3 decimals"),
    ("1e-400", "at most 3 decimals"),
    ("0", "more than 0"),
    ("-1", "more than 0"),
    ("1000000000.001", "at most 1000000000"),
    ("1e400", "at most 1000000000"),
    ("9" * 5000, ""),
    ("NaN", "NaN"),
    ("Infinity", "Infinity"),
    ('"5"', "JSON number"),
    ("true", "JSON number"),
    ("null", "JSON number"),
    ("[1]", "JSON number"),
]


async def test_credits_that_are_not_exact_are_refused(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    for number, words in BAD_CREDITS:
        for path, rest in (("add", '"purchase_amount": 1'), ("allocate", '"user_id": "boss"')):
            response = await send(world, path, f'{{"credits": {number}, {rest}}}')
            assert response.status_code == 422, response.text
            assert words in response.json()["detail"]
        assert (
            await world.stores.pool.fetchval("SELECT total_credits FROM organization_credit_pools")
            == 0
        )


BAD_DOLLARS: list[Any] = ["-1", "0.001", "1e9", '"5"', "NaN"]


async def test_dollars_are_checked(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    for amount in BAD_DOLLARS:
        response = await send(world, "add", f'{{"credits": 1, "purchase_amount": {amount}}}')
        assert response.status_code == 422


@pytest.mark.parametrize("kind", ["stripe", "key"])
async def test_one_payment_adds_once_however_often_it_comes(world: World, kind: str) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    body: dict[str, Any] = {"credits": 25.5, "purchase_amount": 20.25}
    headers = {}
    if kind == "stripe":
        body["stripe_payment_id"] = "pi_1"
    else:
        headers["Idempotency-Key"] = "k1"
    raw = json.dumps(body)
    responses = await asyncio.gather(*(send(world, "add", raw, **headers) for _ in range(12)))
    assert {one.status_code for one in responses} == {200}
    assert len({one.json()["transaction"]["id"] for one in responses}) == 1
    assert responses[0].json()["transaction"]["amount"] == 20.25
    assert responses[-1].json()["pool"]["total_credits"] == 25.5
    pool = world.stores.pool
    assert await pool.fetchval("SELECT total_credits FROM organization_credit_pools") == 25_500
    audited = "SELECT count(*) FROM taximeter.audit_log WHERE action = 'org.credits.purchased'"
    assert await pool.fetchval(audited) == 1
    other = json.dumps({**body, "credits": 26})
    assert (await send(world, "add", other, **headers)).status_code == 409


async def test_purchases_without_a_key_are_all_added(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    raw = '{"credits": 1, "purchase_amount": 1}'
    for _ in range(3):
        assert (await send(world, "add", raw)).status_code == 200
    pool = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert pool["total_credits"] == 3.0


async def test_allocations_at_once_never_exceed_the_pool(world: World) -> None:
    assert (await world.subscribe(credits=10.0)).status_code == 200
    responses = await asyncio.gather(*(world.allocate("boss", 3.0) for _ in range(8)))
    assert sorted(one.status_code for one in responses) == [200] * 3 + [400] * 5
    refused = next(one for one in responses if one.status_code == 400).json()
    assert refused["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert "Need 3.000, have 1.000" in refused["detail"]
    pool = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert (pool["allocated_credits"], pool["available_credits"]) == (9.0, 1.0)
    assert pool["allocation_percentage"] == 90.0
    actions = await world.stores.pool.fetch(
        "SELECT action, count(*) FROM taximeter.audit_log WHERE action LIKE '%alloc%' GROUP BY 1"
    )
    assert dict(map(tuple, actions)) == {"org.credits.allocated": 2, "user.allocation.created": 1}


async def test_credits_go_to_members_only(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    response = await world.allocate("stranger", 1.0)
    assert response.status_code == 404
    assert "member" in response.json()["detail"]


async def test_an_allocation_without_a_pool_is_refused(world: World) -> None:
    pool = world.stores.pool
    await pool.execute("INSERT INTO organizations VALUES ('acme', 'Acme', 'acme', 'boss')")
    await pool.execute("INSERT INTO organization_members VALUES ('acme', 'boss', 'admin')")
    response = await world.allocate("boss", 1.0)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "INSUFFICIENT_CREDITS"
    found = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert found["total_credits"] == 0.0


async def test_terms_of_an_allocation(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for expires_at, status in (("2001-01-01T00:00:00Z", 422), ("2999-01-01T00:00:00", 422)):
        raw = json.dumps({"user_id": "boss", "credits": 1, "expires_at": expires_at})
        assert (await send(world, "allocate", raw)).status_code == status
    terms = {"expires_at": "2999-01-01T00:00:00Z", "auto_renew": True}
    raw = json.dumps({"user_id": "boss", "credits": 1, **terms})
    allocation = (await send(world, "allocate", raw)).json()["allocation"]
    assert allocation["auto_renew"] is True
    assert allocation["expires_at"].startswith("2999-01-01")
    more = (await send(world, "allocate", '{"user_id": "boss", "credits": 1}')).json()["allocation"]
    assert more["id"] == allocation["id"]
    assert (more["allocated_credits"], more["auto_renew"]) == (2.0, True)


async def test_what_remains_is_live(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.chat()).status_code == 200
    live = await world.balance()
    path = f"{CREDITS}/allocations?user_id=ann"

    async def is_settled_for_the_question() -> bool:
        """A busy machine may not get there in the time that an answer waits."""
        (seen,) = (await world.client.get(path, headers=world.auth("boss"))).json()["allocations"]
        assert seen["live"] is True
        assert seen["remaining_credits"] == live.available / 1000 < 20.0
        return bool(seen["used_credits"] == (20_000 - live.available) / 1000)

    await eventually(is_settled_for_the_question)


async def test_usage_report(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.allocate("bob", 5.0)).status_code == 200
    await world.settle()
    for user, model, times in (("ann", "gpt-4o", 3), ("bob", "gpt-4o-mini", 1)):
        for _ in range(times):
            assert (await world.chat(user, model=model)).status_code == 200
    charges = await world.charges()
    total = sum(charge["credits_used"] for charge in charges) / 1000
    url = f"{CREDITS}/usage"
    report = (await world.client.get(url, headers=world.auth("boss"))).json()
    assert report["total_credits_used"] == total
    assert report["total_requests"] == 4
    assert report["as_of"] is not None
    service = report["breakdown_by_service"]["llm_inference"]
    assert service["requests"] == 4
    assert service["avg_cost_per_request"] == round(total / 4, 6)
    assert [one["user_id"] for one in report["breakdown_by_user"]] == ["ann", "bob"]
    assert round(sum(one["percentage"] for one in report["breakdown_by_user"])) == 100
    assert [one["requests"] for one in report["breakdown_by_day"]] == [4]
    for group_by, count in (("model", 2), ("user", 2), ("service", 1), ("day", 1), ("month", 1)):
        grouped = await world.client.get(f"{url}?group_by={group_by}", headers=world.auth("boss"))
        groups = grouped.json()["groups"]
        assert len(groups) == count
        assert sum(one["requests"] for one in groups) == 4
    own = (await world.client.get(url, headers=world.auth("bob"))).json()
    assert own["total_requests"] == 1
    empty = await world.client.get(
        f"{url}?start_date=2001-01-01&end_date=2001-01-31", headers=world.auth("boss")
    )
    assert empty.json()["total_requests"] == 0


BAD_USAGE_QUERIES: list[Any] = [
    ("start_date=2024-02-01&end_date=2024-01-01", 400),
    ("start_date=2020-01-01&end_date=2024-01-01", 400),
    ("end_date=0001-01-01", 400),
    ("start_date=yesterday", 422),
    ("group_by=planet", 422),
    ("user_id=a%00b", 422),
    ("service_type=a%00b", 422),
]


async def test_bad_usage_queries(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for query, status in BAD_USAGE_QUERIES:
        response = await world.client.get(f"{CREDITS}/usage?{query}", headers=world.auth("boss"))
        assert response.status_code == status


BAD_PAGES: list[Any] = ["limit=0", "limit=101", "offset=-1", "limit=x"]


async def test_bad_pages(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for query in BAD_PAGES:
        for path in (f"{CREDITS}/allocations", f"{BILLING}/orgs/acme/members"):
            response = await world.client.get(f"{path}?{query}", headers=world.auth("boss"))
            assert response.status_code == 422


async def test_an_admin_body_over_the_limit_is_refused(world: World) -> None:
    response = await send(world, "add", '{"credits": 1, "purchase_amount": 1' + " " * 70_000 + "}")
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    unannounced = await world.client.post(
        f"{CREDITS}/add",
        content=pieces(),
        headers={"Content-Type": "application/json", **world.auth("boss")},
    )
    assert unannounced.status_code == 413
    assert unannounced.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_an_unknown_path_has_the_same_shape(world: World) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", CREDITS, 405)):
        response = await world.client.request(method, path, headers=world.auth("boss"))
        assert response.status_code == status
        assert set(response.json()) == {"error", "detail"}
