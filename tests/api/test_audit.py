"""The audit log: who, what, before, after, when, and by which request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from support.world import BILLING, World

AUDIT = f"{BILLING}/orgs/acme/audit"


async def test_every_change_is_there_with_its_request(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    bought = await world.client.post(
        f"{BILLING}/credits/acme/add",
        json={"credits": 5.0, "purchase_amount": 1.0},
        headers={**world.root, "X-Request-Id": "from-the-front-end:1"},
    )
    assert bought.headers["X-Request-Id"] == "from-the-front-end:1"
    given = await world.allocate("ann", 7.5)
    assert given.headers["X-Request-Id"].startswith("req-")
    answer = await world.client.get(AUDIT, headers=world.auth("boss"))
    page = answer.json()
    assert page["total"] == len(page["entries"])
    found = {one["action"]: one for one in reversed(page["entries"])}
    assert found["org.credits.purchased"]["request_id"] == "from-the-front-end:1"
    allocated = found["user.allocation.created"]
    assert allocated["request_id"] == given.headers["X-Request-Id"]
    assert (allocated["actor"], allocated["target"]) == ("boss", "ann")
    assert allocated["after"]["allocated_credits"] == 7.5
    assert allocated["before"]["allocated_credits"] == 0
    assert all(one["request_id"] for one in page["entries"])
    assert [one["id"] for one in page["entries"]] == sorted(
        (one["id"] for one in page["entries"]), reverse=True
    )
    for one in page["entries"]:
        age = datetime.now(UTC) - datetime.fromisoformat(one["at"])
        assert timedelta(0) <= age < timedelta(minutes=5)
    assert found["org.subscription.created"]["actor"] == "root"


async def test_it_is_read_by_page_action_and_actor(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    for user in ("ann", "bob", "eve"):
        await world.add_member(user)
    headers = world.auth("boss")
    whole = (await world.client.get(AUDIT, headers=headers)).json()
    assert not any(one["target"] == "their-boss" for one in whole["entries"])
    page = (await world.client.get(f"{AUDIT}?limit=2&offset=1", headers=headers)).json()
    assert page["entries"] == whole["entries"][1:3]
    assert page["total"] == whole["total"]
    added = (await world.client.get(f"{AUDIT}?action=org.member.added", headers=headers)).json()
    assert [one["target"] for one in added["entries"]] == ["eve", "bob", "ann"]
    by_root = (await world.client.get(f"{AUDIT}?actor=root", headers=headers)).json()
    assert {one["actor"] for one in by_root["entries"]} == {"root"}
    assert (await world.client.get(f"{AUDIT}?action=DROP", headers=headers)).status_code == 422


async def test_an_id_of_another_shape_is_replaced(world: World) -> None:
    """What a caller sends goes into headers, logs and the audit log."""
    for bad in ("a b", "x" * 129, "", "ü"):
        answer = await world.client.get(
            "/api/v1/auth/user", headers={**world.auth("ann"), "X-Request-Id": bad.encode()}
        )
        assert answer.headers["X-Request-Id"].startswith("req-"), bad
