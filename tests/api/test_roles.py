"""Every route and every role. A route that is missing from the table fails the test."""

from __future__ import annotations

from typing import Any

import pytest
from support.world import BILLING, World

SUBSCRIBE = {
    "org_id": "fresh",
    "plan_code": "starter",
    "org_name": "Fresh",
    "billing_email": "a@b.cd",
    "user_id": "boss",
}
ALLOCATE = {"user_id": "ann", "credits": 1.0}
ADD = {"credits": 1.0, "purchase_amount": 1.0}
CREDITS = f"{BILLING}/credits/acme"
MEMBERS = f"{BILLING}/orgs/acme/members"
KEYS = f"{BILLING}/orgs/acme/keys"
CHAT_BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}

# (method, template) -> path, body, status for: nobody, a stranger, a member, an org admin, a system
# admin.
TABLE: dict[tuple[str, str], tuple[str, Any, tuple[int, int, int, int, int]]] = {
    ("POST", f"{BILLING}/subscriptions"): (
        f"{BILLING}/subscriptions",
        SUBSCRIBE,
        (401, 403, 403, 403, 200),
    ),
    ("GET", f"{BILLING}/subscriptions/{{org_id}}"): (
        f"{BILLING}/subscriptions/acme",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("PUT", f"{BILLING}/subscriptions/{{org_id}}/upgrade"): (
        f"{BILLING}/subscriptions/acme/upgrade",
        {"new_plan_code": "enterprise"},
        (401, 404, 403, 200, 400),  # The second time it is no upgrade any more.
    ),
    ("DELETE", f"{BILLING}/subscriptions/{{org_id}}"): (
        f"{BILLING}/subscriptions/acme",
        None,
        (401, 404, 403, 200, 200),
    ),
    ("GET", f"{BILLING}/{{org_id}}/history"): (
        f"{BILLING}/acme/history",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("GET", f"{BILLING}/billing/{{org_id}}/history"): (
        f"{BILLING}/billing/acme/history",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("GET", f"{BILLING}/billing/org/{{org_id}}"): (
        f"{BILLING}/billing/org/acme",
        None,
        (401, 404, 403, 200, 200),
    ),
    ("GET", f"{BILLING}/billing/system"): (
        f"{BILLING}/billing/system",
        None,
        (401, 403, 403, 403, 200),
    ),
    ("GET", f"{BILLING}/billing/user"): (
        f"{BILLING}/billing/user",
        None,
        (401, 200, 200, 200, 200),
    ),
    ("POST", f"{BILLING}/users/{{user_id}}/credits"): (
        f"{BILLING}/users/somebody/credits",
        {"credits": 1.0},
        (401, 403, 403, 403, 200),
    ),
    ("PUT", "/api/v1/auth/user/default-organization"): (
        "/api/v1/auth/user/default-organization",
        {"org_id": None},
        (401, 200, 200, 200, 200),
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}"): (CREDITS, None, (401, 404, 200, 200, 200)),
    ("POST", f"{BILLING}/credits/{{org_id}}/add"): (
        f"{CREDITS}/add",
        ADD,
        (401, 404, 403, 200, 200),
    ),
    ("POST", f"{BILLING}/credits/{{org_id}}/allocate"): (
        f"{CREDITS}/allocate",
        ALLOCATE,
        (401, 404, 403, 200, 200),
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/allocations"): (
        f"{CREDITS}/allocations",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/usage"): (
        f"{CREDITS}/usage",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("POST", f"{BILLING}/credits/{{org_id}}/transfer"): (
        f"{CREDITS}/transfer",
        {"from_user_id": "ann", "to_user_id": "boss", "credits": 0.001},
        (401, 404, 403, 200, 200),
    ),
    ("POST", f"{BILLING}/credits/{{org_id}}/deallocate"): (
        f"{CREDITS}/deallocate",
        {"user_id": "ann", "credits": 0.001},
        (401, 404, 403, 200, 200),
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/moves"): (
        f"{CREDITS}/moves",
        None,
        (401, 404, 200, 200, 200),
    ),
    ("GET", f"{BILLING}/orgs/{{org_id}}/members"): (MEMBERS, None, (401, 404, 403, 200, 200)),
    ("POST", f"{BILLING}/orgs/{{org_id}}/members"): (
        MEMBERS,
        {"user_id": "new"},
        (401, 404, 403, 200, 200),
    ),
    ("DELETE", f"{BILLING}/orgs/{{org_id}}/members/{{user_id}}"): (
        f"{MEMBERS}/leaver",
        None,
        (401, 404, 403, 200, 404),
    ),
    ("GET", f"{BILLING}/orgs/{{org_id}}/keys"): (KEYS, None, (401, 404, 403, 200, 200)),
    ("POST", f"{BILLING}/orgs/{{org_id}}/keys"): (
        KEYS,
        {"name": "k", "operations": ["llm"]},
        (401, 404, 403, 200, 200),
    ),
    ("DELETE", f"{BILLING}/orgs/{{org_id}}/keys/{{key_id}}"): (
        f"{KEYS}/000000000000",
        None,
        (401, 404, 403, 404, 404),
    ),
    ("GET", "/api/v1/auth/user"): ("/api/v1/auth/user", None, (401, 200, 200, 200, 200)),
    ("GET", "/api/v1/system/status"): ("/api/v1/system/status", None, (200,) * 5),
    ("POST", "/api/v1/llm/chat/completions"): (
        "/api/v1/llm/chat/completions",
        CHAT_BODY,
        (401, 403, 200, 402, 403),
    ),
    ("POST", "/v1/chat/completions"): (
        "/v1/chat/completions",
        CHAT_BODY,
        (401, 403, 200, 402, 403),
    ),
}


def routes_of(app: Any) -> set[tuple[str, str]]:
    """Every method and path of the application's own document."""
    return {
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }


async def test_every_route_for_every_role(world: World) -> None:
    assert routes_of(world.app) == set(TABLE)
    await world.funded("ann", 20.0)
    await world.add_member("leaver")
    callers: list[dict[str, str]] = [
        {},
        world.auth("stranger"),
        world.auth("ann"),
        world.auth("boss"),
        world.root,
    ]
    for (method, _), (path, body, expected) in TABLE.items():
        found = []
        for headers in callers:
            response = await world.client.request(method, path, json=body, headers=headers)
            found.append(response.status_code)
            if response.status_code >= 400:
                document = response.json()
                assert set(document) == {"error", "detail"}, (method, path)
                assert set(document["error"]) == {"code", "message", "details"}
                assert document["detail"] == document["error"]["message"]
        assert tuple(found) == expected, (method, path)


@pytest.mark.parametrize("path", ["", "/allocations", "/usage"])
async def test_a_foreign_organization_looks_like_none(world: World, path: str) -> None:
    """403 would tell a stranger that the organisation is there."""
    assert (await world.subscribe("acme")).status_code == 200
    foreign = await world.client.get(f"{CREDITS}{path}", headers=world.auth("stranger"))
    missing = await world.client.get(
        f"{BILLING}/credits/nowhere{path}", headers=world.auth("stranger")
    )
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == missing.json()


async def test_members_see_themselves_only(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.allocate("bob", 3.0)).status_code == 200
    for path in ("allocations", "usage"):
        other = await world.client.get(f"{CREDITS}/{path}?user_id=bob", headers=world.auth("ann"))
        assert other.status_code == 403
    own = await world.client.get(f"{CREDITS}/allocations", headers=world.auth("ann"))
    assert [one["user_id"] for one in own.json()["allocations"]] == ["ann"]
    everybody = await world.client.get(f"{CREDITS}/allocations", headers=world.auth("boss"))
    assert everybody.json()["total"] == 2


async def test_a_member_who_was_removed_is_a_stranger(world: World) -> None:
    await world.funded("ann", 20.0)
    removed = await world.client.delete(f"{MEMBERS}/ann", headers=world.auth("boss"))
    assert removed.json() == {
        "user_id": "ann",
        "returned_credits": 20.0,
        "closing": False,
    }
    assert (await world.chat()).status_code == 403
    assert (await world.client.get(CREDITS, headers=world.auth("ann"))).status_code == 404
    pool = (await world.client.get(CREDITS, headers=world.auth("boss"))).json()
    assert pool["available_credits"] == 100.0
    await world.settle()
    assert (await world.balance()).available == 0
    await world.prove()


async def test_the_last_admin_stays(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    headers = world.auth("boss")
    assert (await world.client.delete(f"{MEMBERS}/boss", headers=headers)).status_code == 409
    demoted = await world.client.post(MEMBERS, json={"user_id": "boss"}, headers=headers)
    assert demoted.status_code == 409
    await world.add_member("second", role="admin")
    assert (await world.client.delete(f"{MEMBERS}/boss", headers=headers)).status_code == 200


async def test_a_change_by_cookie_must_come_from_our_own_pages(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    cookie = {"Cookie": f"session_token={world.token('boss')}"}
    host = world.url.removeprefix("http://")
    for extra, status in (
        ({}, 200),
        ({"Origin": f"http://{host}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:5173"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        response = await world.client.post(f"{CREDITS}/add", json=ADD, headers={**cookie, **extra})
        assert response.status_code == status, extra
