"""Long lists are walked by their cursors, and say when they have not counted to their end."""

from __future__ import annotations

import pytest
from support.world import BILLING, World

from taximeter.api.billing import usage_reports
from taximeter.api.routes import credits as credits_route
from taximeter.api.routes import members as members_route
from taximeter.api.web import paging
from taximeter.meter import Usage

MEMBERS, ALLOCATIONS = f"{BILLING}/orgs/acme/members", f"{BILLING}/credits/acme/allocations"


async def walk(world: World, path: str, what: str) -> list[str]:
    """The users of all pages of two, by their cursors."""
    users: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await world.client.get(path, params=params, headers=world.auth("boss"))).json()
        assert len(page[what]) <= 2
        users += [one["user_id"] for one in page[what]]
        cursor = page["next"]
    return users


async def fund(world: World, *users: str) -> None:
    await world.funded(users[0], 10.0)
    for user in users[1:]:
        await world.add_member(user)
        await world.allocate(user, 10.0)


async def test_every_row_is_on_one_page_whatever_comes_meanwhile(world: World) -> None:
    users = [f"u{number} \u00fc" for number in range(5)]
    await fund(world, *users)
    assert await walk(world, MEMBERS, "members") == ["boss", *users]
    newest_first = await walk(world, ALLOCATIONS, "allocations")
    assert newest_first == users[::-1]
    whole = await world.client.get(f"{ALLOCATIONS}?limit=5", headers=world.auth("boss"))
    assert [one["user_id"] for one in whole.json()["allocations"]] == newest_first
    assert whole.json()["next"] is None


@pytest.mark.parametrize("path", [MEMBERS, ALLOCATIONS])
async def test_a_cursor_that_no_page_has_answered_is_refused(world: World, path: str) -> None:
    await world.subscribe()
    moment = "2026-11-30T00:00:00+00:00"
    for cursor in (
        *("x", "e30", "W10", "bnVsbA", "\u00fc", "A" * 4096),
        paging.cursor_of(True, "no time", "x"),
        paging.cursor_of("yes", moment, "x"),
        paging.cursor_of("no time", "x"),
        paging.cursor_of("0001-01-01T00:00:00+23:59", "x"),
        paging.cursor_of("2026-11-30", "x"),
        paging.cursor_of(moment, "\0"),
    ):
        answer = await world.client.get(path, params={"cursor": cursor}, headers=world.auth("boss"))
        assert answer.status_code == 400, (cursor, answer.text)
        assert answer.json()["error"]["details"] == {"field": "cursor"}


async def test_what_is_not_counted_or_added_up_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(world, "ann", "bob", "cleo")
    meter = await world.app.state.services.meters.get()
    usage = Usage(service_type="llm_inference", service_name="gpt-4o")
    for user in ("ann", "bob"):
        await meter.charge("acme", user, 1000, usage=usage)
    boss = world.auth("boss")

    async def get(path: str) -> dict[str, object]:
        found: dict[str, object] = (await world.client.get(path, headers=boss)).json()
        return found

    usage_path, dashboard = f"{BILLING}/credits/acme/usage", f"{BILLING}/billing/org/acme"
    assert (await get(MEMBERS))["total"] == 4
    assert (await get(usage_path))["breakdown_by_user_left_out"] is False
    for module in (paging, members_route, credits_route):
        monkeypatch.setattr(module, "COUNTED_MAX", 2)
    monkeypatch.setattr(usage_reports, "USERS_MAX", 1)
    assert (await get(MEMBERS))["total"] is None
    assert (await get(ALLOCATIONS))["total"] is None
    assert (await get(f"{ALLOCATIONS}?user_id=ann"))["total"] == 1
    report = await get(usage_path)
    assert (report["breakdown_by_user_left_out"], report["breakdown_by_user"]) == (True, [])
    assert report["total_credits_used"] == 2.0
    asked_for = await get(f"{usage_path}?group_by=user")
    assert asked_for["breakdown_by_user_left_out"] is False
    assert len(asked_for["breakdown_by_user"]) == 2  # type: ignore[arg-type]
    last_days = (await get(dashboard))["usage_stats"]["last_30_days"]  # type: ignore[index]
    assert (last_days["by_user_left_out"], last_days["by_user"]) == (True, [])
