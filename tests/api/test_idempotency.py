"""A request that changes money takes effect once, however often it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from support.world import BILLING, World

from taximeter.api.web import idempotency
from taximeter.settler.books.named_sql import load_queries

SUBSCRIPTION = {
    "org_id": "fresh",
    "plan_code": "starter",
    "org_name": "Fresh",
    "billing_email": "a@b.cd",
    "user_id": "boss",
    "initial_credits": 7.0,
}


@dataclass(frozen=True)
class Endpoint:
    """A money endpoint: what to send, the same with another meaning, and how often it happened."""

    method: str
    path: str
    body: dict[str, Any]
    other: dict[str, Any]
    count: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


ENDPOINTS = [
    Endpoint(
        "POST",
        "/subscriptions",
        SUBSCRIPTION,
        {**SUBSCRIPTION, "initial_credits": 8.0},
        "SELECT count(*) FROM org_billing_history WHERE org_id = 'fresh'"
        " AND event_type = 'credits_purchased'",
    ),
    Endpoint(
        "POST",
        "/credits/acme/add",
        {"credits": 5.0, "purchase_amount": 4.5},
        {"credits": 5.0, "purchase_amount": 4.51},
        "SELECT count(*) FROM org_billing_history WHERE amount = 4.5",
    ),
    Endpoint(
        "POST",
        "/credits/acme/allocate",
        {"user_id": "boss", "credits": 0.003},
        {"user_id": "boss", "credits": 0.004},
        "SELECT allocated_credits / 3 FROM user_credit_allocations",
    ),
    Endpoint(
        "PUT",
        "/subscriptions/acme/upgrade",
        {"new_plan_code": "enterprise"},
        {"new_plan_code": "enterprise", "effective_immediately": False},
        "SELECT count(*) FROM org_billing_history WHERE event_type = 'subscription_upgraded'",
    ),
    Endpoint(
        "POST",
        "/users/ann/credits",
        {"credits": 2.5},
        {"credits": 2.5, "purchase_amount": 1.0},
        "SELECT allocated_credits / 2500 FROM user_credit_allocations",
    ),
]


@pytest.fixture(params=ENDPOINTS, ids=str)
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    found: Endpoint = request.param
    return found


Send = Callable[..., Any]


def sender(world: World, endpoint: Endpoint) -> Send:
    async def send(body: dict[str, Any] | None = None, key: str = "k1") -> httpx.Response:
        return await world.client.request(
            endpoint.method,
            f"{BILLING}{endpoint.path}",
            content=json.dumps(endpoint.body if body is None else body),
            headers={**world.root, "Content-Type": "application/json", "Idempotency-Key": key},
        )

    return send


async def happened(world: World, endpoint: Endpoint) -> Any:
    return await world.stores.pool.fetchval(endpoint.count)


async def test_a_repetition_is_answered_to_the_letter(world: World, endpoint: Endpoint) -> None:
    assert (await world.subscribe()).status_code == 200
    send = sender(world, endpoint)
    first = await send()
    assert first.status_code == 200, first.text
    counted = await happened(world, endpoint)
    again = await send()
    assert (again.status_code, again.text) == (200, first.text)
    assert await happened(world, endpoint) == counted


async def test_the_same_key_with_another_body_is_refused(world: World, endpoint: Endpoint) -> None:
    assert (await world.subscribe()).status_code == 200
    send = sender(world, endpoint)
    assert (await send()).status_code == 200
    refused = await send(endpoint.other)
    assert refused.status_code == 409
    assert refused.json()["error"]["details"]["field"] == "Idempotency-Key"
    assert await happened(world, endpoint) == 1


async def test_duplicates_at_once_take_effect_once(world: World, endpoint: Endpoint) -> None:
    """More of them than the API has connections, so that some wait for one."""
    assert (await world.subscribe()).status_code == 200
    send = sender(world, endpoint)
    answers = await asyncio.gather(*(send() for _ in range(20)))
    assert {one.status_code for one in answers} == {200}
    assert len({one.text for one in answers}) == 1
    assert await happened(world, endpoint) == 1


async def test_there_is_no_effect_without_its_answer(
    world: World, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the two: here, the statement that keeps the answer fails."""
    assert (await world.subscribe()).status_code == 200
    send = sender(world, endpoint)
    broken = {**idempotency.IDEMPOTENCY, "keep_answer": "SELECT 1 / 0, $1, $2, $3, $4, $5"}
    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "IDEMPOTENCY", broken)
        assert (await send()).status_code == 500
    assert await happened(world, endpoint) in (0, None)
    assert (await send()).status_code == 200
    assert await happened(world, endpoint) == 1


async def test_a_cancellation_is_answered_to_the_letter_after_it_has_ended(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    send = sender(world, Endpoint("DELETE", "/subscriptions/acme", {}, {}, ""))
    first = await send()
    assert first.status_code == 200, first.text
    await world.stores.pool.execute("UPDATE organization_subscriptions SET status = 'canceled'")
    again = await send()
    assert (again.status_code, again.text) == (200, first.text)
    assert (await send(key="k2")).status_code == 409


async def test_numbers_that_mean_the_same_are_the_same_body(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    answers = []
    for numbers in (
        '"credits": 5, "purchase_amount": 1',
        '"purchase_amount": 1.00, "credits": 5e0',
    ):
        response = await world.client.post(
            f"{BILLING}/credits/acme/add",
            content=f"{{{numbers}}}",
            headers={
                **world.root,
                "Content-Type": "application/json",
                "Idempotency-Key": "k",
            },
        )
        answers.append((response.status_code, response.text))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


async def test_a_refusal_is_not_kept(world: World) -> None:
    """The pool could not pay; once it can, the same key works."""
    assert (await world.subscribe(credits=1.0)).status_code == 200
    send = sender(world, Endpoint("POST", "/credits/acme/allocate", {}, {}, ""))
    body = {"user_id": "boss", "credits": 2.0}
    assert (await send(body)).json()["error"]["code"] == "INSUFFICIENT_CREDITS"
    more = {"credits": 1.0, "purchase_amount": 1.0}
    added = await world.client.post(f"{BILLING}/credits/acme/add", json=more, headers=world.root)
    assert added.status_code == 200
    assert (await send(body)).status_code == 200


async def test_a_key_belongs_to_its_organization_and_endpoint(world: World) -> None:
    for org in ("acme", "other"):
        assert (await world.subscribe(org)).status_code == 200
    for path in ("acme/add", "other/add"):
        send = sender(world, Endpoint("POST", f"/credits/{path}", {}, {}, ""))
        assert (await send({"credits": 5.0, "purchase_amount": 4.5})).status_code == 200
    send = sender(world, Endpoint("POST", "/credits/acme/allocate", {}, {}, ""))
    assert (await send({"user_id": "boss", "credits": 1.0})).status_code == 200
    pools = await world.stores.pool.fetch("SELECT total_credits FROM organization_credit_pools")
    assert [row[0] for row in pools] == [105_000, 105_000]


async def test_a_key_lets_nobody_in(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    endpoint = ENDPOINTS[1]
    assert (await sender(world, endpoint)()).status_code == 200
    for user, status in (("stranger", 404), ("ann", 403)):
        if user == "ann":
            await world.add_member("ann")
        response = await world.client.post(
            f"{BILLING}{endpoint.path}",
            json=endpoint.body,
            headers={**world.auth(user), "Idempotency-Key": "k1"},
        )
        assert response.status_code == status


async def test_a_payment_of_another_organization_buys_nothing(world: World) -> None:
    for org in ("acme", "other"):
        assert (await world.subscribe(org, credits=None)).status_code == 200
    body = {"credits": 5.0, "purchase_amount": 4.5, "stripe_payment_id": "pi_1"}

    async def add(org: str) -> int:
        answer = await world.client.post(
            f"{BILLING}/credits/{org}/add", json=body, headers=world.root
        )
        if answer.status_code == 409:
            assert answer.json()["error"]["details"] == {"field": "stripe_payment_id"}
        return answer.status_code

    statuses = await asyncio.gather(*(add(org) for org in ("acme", "other") * 6))
    assert sorted(statuses) == [200] * 6 + [409] * 6
    total = "SELECT sum(total_credits)::bigint FROM organization_credit_pools"
    assert await world.stores.pool.fetchval(total) == 5_000


async def test_answers_are_pruned_and_payments_are_not(world: World) -> None:
    assert (await world.subscribe(credits=None)).status_code == 200
    send = sender(world, ENDPOINTS[1])
    body = {"credits": 5.0, "purchase_amount": 4.5, "stripe_payment_id": "pi_1"}
    first = await send(body)
    pool, prune = world.stores.pool, load_queries("upkeep")["prune_answers"]
    assert await pool.execute(prune, 3600.0) == "DELETE 0"
    await pool.execute(
        "UPDATE taximeter.idempotent_answers SET created_at = now() - interval '2 hours'"
    )
    assert await pool.execute(prune, 3600.0) == "DELETE 2"
    again = await send(body)
    assert again.json() == first.json()
    assert await pool.fetchval("SELECT total_credits FROM organization_credit_pools") == 5_000
