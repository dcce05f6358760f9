"""What holds on every route that existing users rely on, and the LLM route."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.contract import Rows, call, has, keeper
from support.waiting import eventually
from support.world import BILLING, CHAT, World

from taximeter.api.web.errors import from_meter
from taximeter.meter import InsufficientCredits
from taximeter.settler.moves.relay import relay

ROWS: Rows = {}
row = keeper(ROWS)


@row("POST /api/v1/llm/chat/completions")
async def _llm(world: World) -> None:
    await world.funded("ann", 20.0)
    cookie = {"Cookie": f"session_token={world.token('ann')}"}
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Hi"}],
        "power_level": "balanced",
        "task_type": "chat",
    }
    answer = await world.client.post(CHAT, json=body, headers=cookie)
    assert answer.status_code == 200
    assert answer.json()["choices"], "the upstream's body"
    cost = float(answer.headers["X-Cost-Incurred"])
    assert cost > 0
    remaining = (await world.balance()).available / 1000
    assert float(answer.headers["X-Credits-Remaining"]) == remaining == round(20 - cost, 3)
    assert answer.headers["X-Provider-Used"] == "simulated"
    [charge] = await world.charges()
    assert charge["credits_used"] == round(cost * 1000)
    assert (charge["service_type"], charge["service_name"]) == ("llm_inference", "gpt-4o-mini")
    has(
        json.loads(charge["metadata"]),
        "tokens_used",
        provider="simulated",
        model="gpt-4o-mini",
        power_level="balanced",
        task_type="chat",
    )


@row("402 of the LLM route, word for word")
async def _llm_refusal(world: World) -> None:
    assert (
        from_meter(InsufficientCredits(50, 10, 0)).message
        == "Insufficient organization credits. Need 0.050, have 0.010"
    )
    await world.funded("ann", 0.001)
    refused = await world.chat()
    assert refused.status_code == 402
    assert refused.json()["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert refused.json()["detail"].startswith("Insufficient organization credits. Need ")
    assert world.upstream_calls == 0


@row("errors")
async def _errors(world: World) -> None:
    await world.funded()
    path = f"{BILLING}/credits/acme"
    body = {"new_plan_code": "trial"}
    cases: list[tuple[str, str, Any, dict[str, str], int, str]] = [
        ("PUT", f"{BILLING}/subscriptions/acme/upgrade", body, world.auth("boss"), 400, "INVALID"),
        ("GET", path, None, {}, 401, "UNAUTHORIZED"),
        ("POST", f"{path}/add", {}, world.auth("ann"), 403, "PERMISSION_DENIED"),
        ("GET", path, None, world.auth("stranger"), 404, "NOT_FOUND"),
        ("POST", f"{path}/add", {"credits": 0}, world.auth("boss"), 422, "VALIDATION_ERROR"),
    ]
    for method, url, sent, headers, status, code in cases:
        answer = await world.client.request(method, url, json=sent, headers=headers)
        document = answer.json()
        assert answer.status_code == status, answer.text
        assert set(document) == {"error", "detail"}
        assert set(document["error"]) == {"code", "message", "details"}
        assert document["error"]["code"].startswith(code)
        assert document["detail"] == document["error"]["message"]


# Who may do what: action -> (method, path, body), and the answers to a system admin, an org admin,
# one of another organisation, a member, nobody.
ACTIONS: dict[str, tuple[str, str, Any, tuple[int, int, int, int, int]]] = {
    "create subscription": (
        "POST",
        "/subscriptions",
        {
            "org_id": "fresh",
            "plan_code": "trial",
            "org_name": "Fresh",
            "billing_email": "a@b.cd",
            "user_id": "boss",
        },
        (200, 403, 403, 403, 401),
    ),
    "view org billing": ("GET", "/subscriptions/acme", None, (200, 200, 404, 200, 401)),
    "view the pool": ("GET", "/credits/acme", None, (200, 200, 404, 200, 401)),
    "purchase credits": (
        "POST",
        "/credits/acme/add",
        {"credits": 1, "purchase_amount": 1},
        (200, 403, 404, 403, 401),
    ),
    "allocate": (
        "POST",
        "/credits/acme/allocate",
        {"user_id": "ann", "credits": 1},
        (200, 200, 404, 403, 401),
    ),
    "view all usage": ("GET", "/credits/acme/usage?user_id=ann", None, (200, 200, 404, 403, 401)),
    "view own usage": ("GET", "/credits/acme/usage?user_id=bob", None, (200, 200, 404, 200, 401)),
    "view all organisations": ("GET", "/billing/system", None, (200, 403, 403, 403, 401)),
}


@row("who may do what")
async def _who(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.subscribe("other", "rival")).status_code == 200
    callers = [world.root, *(world.auth(one) for one in ("boss", "rival", "bob")), {}]
    for action, (method, path, body, expected) in ACTIONS.items():
        found = []
        for headers in callers:
            answer = await world.client.request(
                method, f"{BILLING}{path}", json=body, headers=headers
            )
            found.append(answer.status_code)
        assert tuple(found) == expected, action


@row("sessions by cookie or bearer")
async def _sessions(world: World) -> None:
    await world.funded()
    token = world.token("ann")
    for headers in ({"Cookie": f"session_token={token}"}, {"Authorization": f"Bearer {token}"}):
        answer = await world.client.get("/api/v1/auth/user", headers=headers)
        assert answer.status_code == 200


@row("audit log")
async def _audit(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.allocate("ann", 5.0)).status_code == 200
    body: Any = {"new_plan_code": "enterprise"}
    await call(world, "PUT", "/subscriptions/acme/upgrade", body)
    await call(
        world, "POST", "/credits/acme/add", {"credits": 5.0, "purchase_amount": 4.0}, by="root"
    )
    await world.add_member("bob")
    moved = {"from_user_id": "ann", "to_user_id": "bob", "credits": 1.0}
    await call(world, "POST", "/credits/acme/transfer", moved)
    await call(world, "DELETE", "/subscriptions/acme")
    await world.add_member("poor")
    assert (await world.chat("poor")).status_code == 402
    await relay(world.settling)

    async def refused() -> bool:
        query = "SELECT 1 FROM taximeter.audit_log WHERE action = 'credit.deduction.failed'"
        return bool(await world.stores.pool.fetch(query))

    await eventually(refused)
    rows = await world.stores.pool.fetch("SELECT * FROM taximeter.audit_log ORDER BY id")
    found = {one["action"]: one for one in rows}
    # The last one is bob's, which the transfer has opened.
    opened = [one for one in rows if one["action"] == "user.allocation.created"]
    assert [one["target"] for one in opened] == ["ann", "bob"]
    found["user.allocation.created"] = opened[0]
    expected: dict[str, tuple[str, dict[str, Any] | None, dict[str, Any]]] = {
        "org.subscription.created": ("root", None, {"plan_code": "professional"}),
        "org.subscription.upgraded": (
            "boss",
            {"plan_code": "professional"},
            {"plan_code": "enterprise"},
        ),
        "org.subscription.canceled": (
            "boss",
            {"cancel_at_period_end": False},
            {"cancel_at_period_end": True},
        ),
        "org.credits.purchased": (
            "root",
            {"total_credits": 100_000},
            {"total_credits": 105_000, "purchase_amount": "4.00"},
        ),
        "org.credits.allocated": (
            "boss",
            {"allocated_credits": 20_000, "pool_available_credits": 80_000},
            {"allocated_credits": 25_000, "pool_available_credits": 75_000},
        ),
        "org.credits.transferred": ("boss", {}, {}),
        "user.allocation.created": (
            "boss",
            {"allocated_credits": 0},
            {"allocated_credits": 20_000},
        ),
        "credit.deduction.failed": ("poor", {"available_credits": 0}, {}),
    }
    for action, (actor, before, after) in expected.items():
        one = found[action]
        assert (one["actor"], one["org_id"]) == (actor, "acme"), action
        assert one["at"] is not None
        written = json.loads(one["before"]) if one["before"] else None
        if before is None:
            assert written is None, action
        else:
            has(written, "", **before)
        has(json.loads(one["after"]), "", **after)


@pytest.mark.parametrize("name", ROWS)
async def test_row(world: World, name: str) -> None:
    await ROWS[name](world)
