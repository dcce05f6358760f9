"""Terms of allocations over HTTP; names that paths can say; what "the last 30 days" are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.world import BILLING, World

from taximeter.api.web.json_numbers import RESERVED_ORG_IDS

LATER, LATEST = "2040-01-01T00:00:00Z", "2041-01-01T00:00:00Z"


async def allocate(world: World, credits: float, **terms: Any) -> tuple[int, dict[str, Any]]:
    response = await world.client.post(
        f"{BILLING}/credits/acme/allocate",
        json={"user_id": "ann", "credits": credits, **terms},
        headers=world.root,
    )
    return response.status_code, response.json()


async def test_a_temporary_top_up_does_not_end_permanent_credits(world: World) -> None:
    await world.funded(credits=10)
    status, body = await allocate(world, 1, expires_at=LATER)
    assert (status, body["error"]["code"]) == (409, "EXPIRY_CONFLICT")
    assert body["error"]["details"] == {"field": "expires_at", "standing_expires_at": "never"}
    status, body = await allocate(world, 1)
    assert status == 200
    assert (body["allocation"]["allocated_credits"], body["allocation"]["expires_at"]) == (11, None)


async def test_null_clears_an_end_and_renewing_needs_one(world: World) -> None:
    await world.subscribe()
    await world.add_member("ann")
    status, body = await allocate(world, 5, auto_renew=True)
    assert (status, body["error"]["details"]) == (400, {"field": "auto_renew"})
    status, body = await allocate(world, 5, expires_at=LATER, auto_renew=True)
    assert (status, body["allocation"]["auto_renew"]) == (200, True)
    status, body = await allocate(world, 1, expires_at=LATEST)
    assert status == 409
    status, body = await allocate(world, 1, expires_at=LATER)
    assert (status, body["allocation"]["allocated_credits"]) == (200, 6)
    status, body = await allocate(world, 1, expires_at=None, auto_renew=True)
    assert (status, body["error"]["details"]) == (400, {"field": "auto_renew"})
    status, body = await allocate(world, 1, expires_at=None)
    allocation = body["allocation"]
    assert (status, allocation["expires_at"], allocation["auto_renew"]) == (200, None, False)
    await world.prove()


async def test_rows_of_the_future_are_not_of_the_last_30_days(world: World) -> None:
    await world.funded()
    now = datetime.now(UTC)
    for at in (now, now + timedelta(days=1), now - timedelta(days=29), now - timedelta(days=30)):
        await world.stores.pool.execute(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used,"
            " created_at) VALUES ('acme', 'ann', 's', 1000, $1)",
            at,
        )
    mine = (await world.client.get(f"{BILLING}/billing/user", headers=world.auth("ann"))).json()
    of_org = await world.client.get(f"{BILLING}/billing/org/acme", headers=world.root)
    report = await world.client.get(f"{BILLING}/credits/acme/usage", headers=world.root)
    # Today and the 29 days before it, in UTC, wherever it is said.
    assert mine["usage_last_30_days"]["total_requests"] == 2
    assert of_org.json()["usage_stats"]["last_30_days"]["total_requests"] == 2
    assert report.json()["total_requests"] == 2


@pytest.mark.parametrize("user", ["a/b", "https://id.example/users/7", "x y", "%2F"])
async def test_any_user_can_be_named_in_a_path(world: World, user: str) -> None:
    await world.subscribe()
    await world.add_member(user)
    quoted = "".join(f"%{byte:02X}" for byte in user.encode())
    granted = await world.client.post(
        f"{BILLING}/users/{quoted}/credits",
        json={"credits": 1, "purchase_amount": 0},
        headers=world.root,
    )
    assert granted.status_code == 200, granted.text
    assert granted.json()["allocation"]["user_id"] == user
    removed = await world.client.delete(f"{BILLING}/orgs/acme/members/{quoted}", headers=world.root)
    assert removed.status_code == 200, removed.text
    assert removed.json()["user_id"] == user


@pytest.mark.parametrize("user", [" ann", "ann ", "\u00a0ann"])
async def test_blanks_at_the_ends_are_refused(world: World, user: str) -> None:
    await world.subscribe()
    response = await world.client.post(
        f"{BILLING}/orgs/acme/members", json={"user_id": user}, headers=world.root
    )
    assert response.status_code == 422
    assert "blank" in response.json()["detail"]


async def test_every_word_beside_an_organisation_in_a_path_is_reserved(world: World) -> None:
    """Of two routes that a path could mean, the words of one stand where the other has an id."""
    paths = (await world.client.get("/openapi.json")).json()["paths"]
    templates = [
        path.removeprefix(f"{BILLING}/").split("/")
        for path in paths
        if path.startswith(f"{BILLING}/")
    ]
    assert len(templates) > 20
    for one in templates:
        for other in templates:
            if len(one) != len(other):
                continue
            if all(a == b or a[0] == "{" or b[0] == "{" for a, b in zip(one, other, strict=True)):
                for a, b in zip(one, other, strict=True):
                    if a == "{org_id}" and b[0] != "{" and b != "org":
                        assert b in RESERVED_ORG_IDS, (one, other)


@pytest.mark.parametrize("org", sorted(RESERVED_ORG_IDS))
async def test_a_word_of_a_path_is_no_organisation(world: World, org: str) -> None:
    response = await world.subscribe(org)
    assert response.status_code == 422
    assert "part of a path" in response.json()["detail"]


async def test_who_subscribes_again_names_anew(world: World) -> None:
    await world.subscribe()
    for call in ("DELETE", "end", "POST"):
        if call == "DELETE":
            gone = await world.client.delete(f"{BILLING}/subscriptions/acme", headers=world.root)
            assert gone.status_code == 200
        elif call == "end":
            await world.stores.pool.execute(
                "SELECT taximeter.end_billing_periods((now() + interval '1 year')::date)"
            )
        else:
            body = {
                "org_id": "acme",
                "plan_code": "professional",
                "org_name": "Acme & Sons",
                "billing_email": "b@example.com",
                "user_id": "boss",
            }
            again = await world.client.post(
                f"{BILLING}/subscriptions", json=body, headers=world.root
            )
            assert again.status_code == 200, again.text
    assert await world.stores.pool.fetchval("SELECT org_name FROM organizations") == "Acme & Sons"
    assert (
        await world.stores.pool.fetchval(
            "SELECT before ->> 'org_name' FROM taximeter.audit_log WHERE action = 'org.changed'"
        )
        == "The acme company"
    )


async def test_an_allocation_that_a_transfer_opens_is_on_record(world: World) -> None:
    await world.funded(credits=10)
    await world.add_member("bob")
    response = await world.client.post(
        f"{BILLING}/credits/acme/transfer",
        json={"from_user_id": "ann", "to_user_id": "bob", "credits": 2},
        headers=world.root,
    )
    assert response.status_code == 200, response.text
    rows = await world.stores.pool.fetch(
        "SELECT actor, after ->> 'allocated_credits' AS allocated FROM taximeter.audit_log"
        " WHERE action = 'user.allocation.created' AND target = 'bob'"
    )
    assert [tuple(row) for row in rows] == [("root", "2000")]
