"""Nobody is made a member, shown or robbed of their own credits without having said yes."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, NOTHING_ENDED, World

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.routes import members

MEMBERS = f"{BILLING}/orgs/acme/members"
ADDRESS = "ann@home.example"


async def call(
    world: World, method: str, path: str, user: str, body: Any = None, status: int = 200
) -> Any:
    headers = world.auth(user, system_admin=user == "root")
    answer = await world.client.request(method, f"{BILLING}{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def invite(world: World, role: str = "member") -> Any:
    body = {"user_id": "ann", "role": role}
    return (await call(world, "POST", "/orgs/acme/members", "boss", body))["member"]


async def log_in_with_address(world: World) -> None:
    """Ann's verified address is known to the system."""
    key = load_dev_key(world.settings.data_dir)
    headers = {"Authorization": f"Bearer {key.mint('ann', ttl_s=60, email=ADDRESS)}"}
    assert (await world.client.get("/api/v1/auth/user", headers=headers)).status_code == 200
    query = "SELECT count(*) FROM taximeter.users WHERE email IS NOT NULL"

    async def is_noted() -> bool:
        return bool(await world.stores.pool.fetchval(query))

    await eventually(is_noted)


async def personal_credits(world: World) -> None:
    body = {"credits": 5.0, "purchase_amount": 5.0}
    await call(world, "POST", "/users/ann/credits", "root", body)


async def test_an_invitation_takes_nothing_from_its_user(world: World) -> None:
    """The attack: an admin of anywhere adds a user with credits of their own."""
    assert (await world.subscribe()).status_code == 200
    await personal_credits(world)
    await log_in_with_address(world)
    for role in ("member", "admin"):
        member = await invite(world, role)
        assert (member["status"], member["user_email"]) == ("invited", None)
    assert (await world.chat()).status_code == 200, "her own credits pay"
    for path in ("/orgs/acme/members", "/orgs/acme/members?status=invited", "/billing/org/acme"):
        assert ADDRESS not in str(await call(world, "GET", path, "boss"))
    # She is nobody there, in both directions.
    await call(world, "GET", "/credits/acme", "ann", status=404)
    await call(world, "POST", "/credits/acme/allocate", "boss", ALLOCATE, status=404)
    usage = await call(world, "GET", "/credits/acme/usage", "boss")
    assert usage["total_requests"] == 0
    assert [one["org_id"] for one in (await me(world))["organizations"]] == ["personal:ann"]
    await world.prove()


ALLOCATE = {"user_id": "ann", "credits": 1.0}


async def me(world: World) -> Any:
    answer = await world.client.get("/api/v1/auth/user", headers=world.auth("ann"))
    return answer.json()


async def test_accepting_makes_a_member_and_shows_the_address(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await log_in_with_address(world)
    await invite(world)
    [one] = (await call(world, "GET", "/invitations", "ann"))["invitations"]
    assert (one["org_id"], one["org_name"], one["role"]) == ("acme", "The acme company", "member")
    accepted = await call(world, "POST", "/invitations/acme/accept", "ann")
    assert (accepted["status"], accepted["role"]) == ("active", "member")
    await call(world, "POST", "/invitations/acme/accept", "ann", status=404)
    assert (await call(world, "GET", "/invitations", "ann"))["total"] == 0
    listed = await call(world, "GET", "/orgs/acme/members", "boss")
    assert [one["user_email"] for one in listed["members"]] == [None, ADDRESS]
    done = await call(world, "POST", "/credits/acme/allocate", "boss", ALLOCATE)
    assert done["allocation"]["user_email"] == ADDRESS


async def test_declined_withdrawn_and_left_end_it(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await log_in_with_address(world)
    await invite(world)
    await call(world, "DELETE", "/invitations/acme", "ann")
    await call(world, "POST", "/invitations/acme/accept", "ann", status=404)
    await invite(world)
    await call(world, "DELETE", "/orgs/acme/members/ann", "ann", status=404)
    await call(world, "DELETE", "/orgs/acme/members/ann", "boss")
    await call(world, "POST", "/invitations/acme/accept", "ann", status=404)
    await invite(world)
    await call(world, "POST", "/invitations/acme/accept", "ann")
    await call(world, "POST", "/credits/acme/allocate", "boss", ALLOCATE)
    await call(world, "DELETE", "/orgs/acme/members/boss", "ann", status=403)
    left = await call(world, "DELETE", "/orgs/acme/members/ann", "ann")
    assert left == {"user_id": "ann", "returned_credits": 1.0, "closing": False, **NOTHING_ENDED}
    await call(world, "GET", "/credits/acme", "ann", status=404)
    allocations = await call(world, "GET", "/credits/acme/allocations", "boss")
    assert ADDRESS not in str(allocations)
    await call(world, "DELETE", "/orgs/acme/members/boss", "boss", status=409)
    audit = await call(world, "GET", "/orgs/acme/audit", "boss")
    told = [(one["action"], one["actor"]) for one in audit["entries"] if one["target"] == "ann"]
    assert [one for one in reversed(told) if one[0] not in MONEY] == [
        ("org.member.invited", "boss"),
        ("org.invitation.declined", "ann"),
        ("org.member.invited", "boss"),
        ("org.invitation.withdrawn", "boss"),
        ("org.member.invited", "boss"),
        ("org.invitation.accepted", "ann"),
        ("org.member.left", "ann"),
    ]
    await world.prove()


MONEY = {"user.allocation.created", "org.credits.allocated", "org.credits.returned"}


async def test_an_invited_admin_is_no_admin_and_keeps_nobody_from_staying(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await invite(world, "admin")
    await call(world, "GET", "/orgs/acme/members", "ann", status=404)
    await call(world, "DELETE", "/orgs/acme/members/boss", "boss", status=409)


async def test_nobody_leaves_their_personal_organization(world: World) -> None:
    await personal_credits(world)
    path = "/orgs/personal:ann/members/ann"
    for user in ("ann", "root"):
        refused = await call(world, "DELETE", path, user, status=409)
        assert refused["error"]["code"] == "PERSONAL_ORGANIZATION"
    assert (await world.chat()).status_code == 200


@pytest.mark.parametrize("api_options", [{"members_role": "staff_manager"}])
async def test_who_the_identity_provider_vouches_for_adds_directly(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    key = load_dev_key(world.settings.data_dir)
    token = key.mint("boss", ttl_s=60, roles=("staff_manager",))
    added = await world.client.post(
        MEMBERS, json={"user_id": "ann"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert added.json()["member"]["status"] == "active"
    token = key.mint("eve", ttl_s=60, roles=("staff_manager",))
    refused = await world.client.post(
        MEMBERS, json={"user_id": "eve"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert refused.status_code == 404, "the role opens no organisation"
    assert (await invite(world))["status"] == "active", "a member's role is changed as before"
    body = {"user_id": "bob"}
    invited = await call(world, "POST", "/orgs/acme/members", "boss", body)
    assert invited["member"]["status"] == "invited"


async def test_an_invitation_once_accepted_is_the_youngest_membership(world: World) -> None:
    """An old invitation must not become the organisation that pays."""
    assert (await world.subscribe()).status_code == 200
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    await invite(world)
    await world.add_member("ann", "other")
    await call(world, "POST", "/invitations/acme/accept", "ann")
    assert [one["org_id"] for one in (await me(world))["organizations"]] == ["other", "acme"]


@pytest.mark.parametrize("api_options", [{"membership_cache_s": 60.0}])
async def test_own_credits_are_reachable_from_an_organization_that_gave_nothing(
    world: World,
) -> None:
    """Also with memberships that this process has read a minute ago."""
    assert (await world.subscribe()).status_code == 200
    await personal_credits(world)
    await invite(world)
    await call(world, "POST", "/invitations/acme/accept", "ann")
    assert (await world.chat()).status_code == 200
    named = await world.chat(headers={"X-Org-Id": "acme"})
    assert named.status_code == 402, "who names an organisation means it"
    assert (await world.chat(headers={"X-Org-Id": "personal:ann"})).status_code == 200
    [charge, second] = await world.charges("personal:ann")
    assert (charge["user_id"], second["user_id"]) == ("ann", "ann")
    body = {"user_id": "ann", "credits": 5.0}
    await call(world, "POST", "/credits/acme/allocate", "boss", body)
    assert [one["org_id"] for one in (await me(world))["organizations"]] == ["acme", "personal:ann"]
    await world.prove()


@pytest.mark.parametrize("api_options", [{"membership_cache_s": 60.0}])
async def test_what_another_process_gave_counts_where_nobody_else_gives(world: World) -> None:
    """Two organisations without anything; the younger one allocates, by way of SQL."""
    for org in ("acme", "other"):
        assert (await world.subscribe(org)).status_code == 200
        await world.add_member("ann", org)
    assert (await world.chat()).status_code == 402
    await world.stores.pool.execute(
        "SELECT allocate_credits_to_user('other', 'ann', 5000, 'operator')"
    )
    assert (await world.chat()).status_code == 200
    assert len(await world.charges("other")) == 1


async def invite_here(
    world: World, org: str, admin: str, user: str, status: int = 200
) -> dict[str, Any]:
    path = f"/orgs/{org}/members"
    found: dict[str, Any] = await call(world, "POST", path, admin, {"user_id": user}, status)
    return found


async def test_nobody_is_flooded_with_invitations(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "INVITATIONS_OF_ORGANIZATION_MAX", 2)
    monkeypatch.setattr(members, "INVITATIONS_OF_USER_MAX", 2)
    orgs = ("acme", "beta", "gamma")
    for org in orgs:
        assert (await world.subscribe(org, f"boss-{org}")).status_code == 200
    await invite_here(world, "acme", "boss-acme", "ann")
    await invite_here(world, "acme", "boss-acme", "bob")
    refused = await invite_here(world, "acme", "boss-acme", "cid", 409)
    assert refused["error"]["details"] == {
        "reason": "too_many_invitations",
        "limit": "organization",
        "most": 2,
    }
    # Another role for who is invited already is no further invitation.
    await invite_here(world, "acme", "boss-acme", "ann")
    await invite_here(world, "beta", "boss-beta", "ann")
    refused = await invite_here(world, "gamma", "boss-gamma", "ann", 409)
    assert refused["error"]["details"]["limit"] == "user"
    await call(world, "DELETE", "/invitations/acme", "ann")
    await invite_here(world, "gamma", "boss-gamma", "ann")
    await invite_here(world, "acme", "boss-acme", "cid")


async def test_who_has_blocked_an_organisation_is_not_invited_again(world: World) -> None:
    for org in ("acme", "beta"):
        assert (await world.subscribe(org, f"boss-{org}")).status_code == 200
    await invite_here(world, "acme", "boss-acme", "ann")
    blocked = await call(world, "DELETE", "/invitations/acme?block=true", "ann")
    assert blocked["status"] == "blocked"
    refused = await invite_here(world, "acme", "boss-acme", "ann", 409)
    assert refused["error"]["details"] == {"reason": "invitations_blocked"}
    await invite_here(world, "beta", "boss-beta", "ann")
    await call(world, "POST", "/invitations/acme/accept", "ann", status=404)
    assert (await call(world, "DELETE", "/invitations/acme", "ann"))["status"] == "declined"
    assert (await invite_here(world, "acme", "boss-acme", "ann"))["member"]["status"] == "invited"
