"""Who pays: the organisation that a request names, the user's default, the oldest, their own."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.billing.personal import PERSONAL_PREFIX, personal_org_id
from taximeter.meter.wire.limits import check_org_id

DEFAULT = "/api/v1/auth/user/default-organization"


async def grant(world: World, user: str, credits: float, **headers: str) -> Any:
    return await world.client.post(
        f"{BILLING}/users/{user}/credits",
        json={"credits": credits},
        headers={**world.root, **headers},
    )


async def choose(world: World, org: str | None, user: str = "ann") -> int:
    answer = await world.client.put(DEFAULT, json={"org_id": org}, headers=world.auth(user))
    return answer.status_code


async def payers(world: World, user: str = "ann") -> list[str]:
    answer = await world.client.get("/api/v1/auth/user", headers=world.auth(user))
    return [one["org_id"] for one in answer.json()["organizations"]]


async def paid_by(world: World, user: str = "ann", **headers: str) -> str:
    """Makes one request and says which organisation was charged for it."""
    counted = await world.stores.pool.fetch(CHARGED)
    answer = await world.chat(user, headers=headers)
    assert answer.status_code == 200, answer.text
    await world.settle()
    now = await world.stores.pool.fetch(CHARGED)
    [(org, _)] = set(map(tuple, now)) - set(map(tuple, counted))
    found: str = org
    return found


CHARGED = "SELECT org_id, count(*) FROM credit_usage_attribution GROUP BY org_id"


async def test_individual_credits_are_those_of_an_organization_of_one(world: World) -> None:
    assert (await world.chat()).status_code == 403
    granted = await grant(world, "ann", 20.0)
    assert granted.status_code == 200, granted.text
    document = granted.json()
    assert document["org_id"] == "personal:ann"
    assert document["allocation"]["allocated_credits"] == 20.0
    assert document["pool_updated"] == {"allocated_credits": 20.0, "available_credits": 0.0}
    assert document["transaction"]["event_type"] == "credits_purchased"
    await world.settle()
    assert await paid_by(world) == "personal:ann"
    assert (await grant(world, "ann", 5.0)).json()["allocation"]["allocated_credits"] == 25.0
    await world.prove()


async def test_nobody_grants_credits_to_themselves(world: World) -> None:
    """A personal organisation has no admin: its user looks, and the system's admins decide."""
    assert (await grant(world, "ann", 20.0)).status_code == 200
    credits = f"{BILLING}/credits/personal:ann"
    for path, body in (
        ("add", {"credits": 1.0, "purchase_amount": 1.0}),
        ("allocate", {"user_id": "ann", "credits": 1.0}),
    ):
        answer = await world.client.post(f"{credits}/{path}", json=body, headers=world.auth("ann"))
        assert answer.status_code == 403
    assert (await world.client.get(credits, headers=world.auth("ann"))).status_code == 200
    assert (await world.client.get(credits, headers=world.auth("bob"))).status_code == 404


async def test_a_personal_organization_stays_one_of_one(world: World) -> None:
    assert (await grant(world, "ann", 20.0)).status_code == 200
    joined = await world.client.post(
        f"{BILLING}/orgs/personal:ann/members", json={"user_id": "bob"}, headers=world.root
    )
    assert joined.status_code == 409
    subscribed = await world.subscribe("personal:bob")
    assert subscribed.status_code == 400
    assert subscribed.json()["error"]["details"]["field"] == "org_id"


async def test_a_grant_that_is_repeated_is_one(world: World) -> None:
    first, again = [await grant(world, "ann", 3.0, **{"Idempotency-Key": "g1"}) for _ in range(2)]
    assert first.text == again.text
    other = await grant(world, "ann", 4.0, **{"Idempotency-Key": "g1"})
    assert other.status_code == 409
    total = await world.stores.pool.fetchval("SELECT total_credits FROM organization_credit_pools")
    assert total == 3_000


@pytest.mark.parametrize(
    "user", ["ann", "a b", "x" * 255, "sha256:1", "ünï", "f:1:ann@example.org"]
)
def test_every_user_has_an_id_for_it(user: str) -> None:
    org_id = personal_org_id(user)
    assert check_org_id(org_id).startswith(PERSONAL_PREFIX)
    assert org_id == personal_org_id(user)
    assert org_id not in {personal_org_id(f"{user}x"[:255]), f"{PERSONAL_PREFIX}sha256:1"} or (
        len(user) == 255
    )


async def test_header_then_default_then_age_then_personal(world: World) -> None:
    assert (await grant(world, "ann", 20.0)).status_code == 200
    for org in ("older", "newer"):
        await world.funded("ann", 20.0, org)
    await world.settle()
    assert await payers(world) == ["older", "newer", "personal:ann"]
    assert await paid_by(world) == "older"
    assert await paid_by(world, **{"X-Org-Id": "newer"}) == "newer"
    assert await choose(world, "newer") == 200
    assert await payers(world) == ["newer", "older", "personal:ann"]
    assert await paid_by(world) == "newer"
    assert await paid_by(world, **{"X-Org-Id": "personal:ann"}) == "personal:ann"
    assert await choose(world, None) == 200
    assert await paid_by(world) == "older"


async def test_only_an_own_organization_can_be_chosen(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.funded("bob", 20.0, "other")
    assert await choose(world, "other") == 404
    assert await choose(world, "nowhere") == 404
    assert (await world.chat(headers={"X-Org-Id": "other"})).status_code == 404
    assert await choose(world, "acme", "bob") == 404


async def test_a_default_ends_with_the_membership(world: World) -> None:
    for org in ("older", "newer"):
        await world.funded("ann", 20.0, org)
    assert await choose(world, "newer") == 200
    removed = await world.client.delete(
        f"{BILLING}/orgs/newer/members/ann", headers=world.auth("boss")
    )
    assert removed.status_code == 200
    await world.settle()
    assert await paid_by(world) == "older"


async def test_lists_show_the_address_that_the_issuer_has_verified(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    path = f"{BILLING}/credits/acme/allocations"

    async def shown() -> Any:
        answer = await world.client.get(path, headers=world.auth("boss"))
        return {one["user_id"]: one["user_email"] for one in answer.json()["allocations"]}

    assert await shown() == {"ann": None}
    token = load_dev_key(world.settings.data_dir).mint("ann", ttl_s=60, email="ann@example.org")
    me = {"Authorization": f"Bearer {token}"}
    assert (await world.client.get("/api/v1/auth/user", headers=me)).status_code == 200

    async def noted() -> bool:
        return await shown() == {"ann": "ann@example.org"}

    await eventually(noted)
    members = await world.client.get(f"{BILLING}/orgs/acme/members", headers=world.auth("boss"))
    emails = {one["user_id"]: one["user_email"] for one in members.json()["members"]}
    assert emails == {"boss": None, "ann": "ann@example.org", "bob": None}
    assert (await world.chat()).status_code == 200
    await world.settle()
    usage = await world.client.get(f"{BILLING}/credits/acme/usage", headers=world.auth("boss"))
    assert usage.json()["breakdown_by_user"][0]["user_email"] == "ann@example.org"
