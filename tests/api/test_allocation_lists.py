"""Allocations that are searched, sorted and paged by the API, with what their users did lately."""

from __future__ import annotations

from typing import Any

import pytest
from support.world import BILLING, World

from taximeter.api.routes import credits

PATH = f"{BILLING}/credits/acme/allocations"
MEMBERS = 250


async def get(world: World, query: str, by: str = "boss", status: int = 200) -> Any:
    response = await world.client.get(f"{PATH}?{query}", headers=world.auth(by))
    assert response.status_code == status, response.text
    return response.json()


async def many(world: World) -> None:
    """Members u0 to u249: every second ends, later ones earlier; amounts go round in tens."""
    await world.funded()
    await world.stores.pool.execute(
        "INSERT INTO organization_members (org_id, user_id, role, status)"
        " SELECT 'acme', 'u' || n, 'member', 'active' FROM generate_series(0, $1 - 1) AS n",
        MEMBERS,
    )
    await world.stores.pool.execute(
        "INSERT INTO taximeter.users (user_id, email)"
        " SELECT 'u' || n, 'person' || n || '@acme.example'"
        " FROM generate_series(0, $1 - 1) AS n",
        MEMBERS,
    )
    await world.stores.pool.execute(
        "SELECT taximeter.allocate_credits('acme', 'u' || n, 1 + n % 10, 'boss',"
        " n % 2 = 0, CASE WHEN n % 2 = 0 THEN now() + make_interval(days => 1000 - n) END, NULL)"
        " FROM generate_series(0, $1 - 1) AS n",
        MEMBERS,
    )


async def all_pages(world: World, query: str) -> list[Any]:
    rows: list[Any] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        after = f"&cursor={page['next']}" if page["next"] else ""
        page = await get(world, f"{query}&limit=100{after}")
        rows += page["allocations"]
    return rows


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_every_row_is_on_one_page_in_the_order_asked_for(world: World, order: str) -> None:
    await many(world)
    for sort in ("user", "allocated_credits", "remaining_credits", "used_credits", "allocated_at"):
        rows = await all_pages(world, f"search=person&sort={sort}&order={order}")
        assert len({row["id"] for row in rows}) == len(rows) == MEMBERS, sort
        values = [row["user_email"] if sort == "user" else row[sort] for row in rows]
        assert values == sorted(values, reverse=order == "desc"), sort


async def test_what_ends_next_comes_first(world: World) -> None:
    await many(world)
    rows = await all_pages(world, "has_end=true&sort=expires_at&is_active=true")
    assert [row["user_id"] for row in rows] == [f"u{n}" for n in range(MEMBERS - 2, -1, -2)]
    board = await world.client.get(f"{BILLING}/billing/org/acme", headers=world.auth("boss"))
    ending = board.json()["ending_allocations"]
    assert [one["user_id"] for one in ending] == [row["user_id"] for row in rows[:20]]


async def test_a_search_takes_its_signs_as_they_are(world: World) -> None:
    await many(world)
    assert (await get(world, "search=PERSON24"))["total"] == 11
    for nothing in ("%25", "_", "person24%5C"):
        assert (await get(world, f"search={nothing}"))["total"] == 0
    # A member finds themselves and nobody else.
    found = await get(world, "search=u", "u7")
    assert [one["user_id"] for one in found["allocations"]] == ["u7"]


async def test_what_cannot_be_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await many(world)
    for query, status in (
        ("sort=colour", 422),
        ("sort=user&offset=5", 400),
        ("sort=user&cursor=nonsense", 400),
        ("search=", 422),
    ):
        await get(world, query, status=status)
    monkeypatch.setattr(credits, "COUNTED_MAX", MEMBERS - 1)
    refused = await get(world, "sort=used_credits", status=400)
    assert "would have to be looked through" in refused["error"]["message"]
    assert (await get(world, "sort=used_credits&user_id=u3"))["total"] == 1


async def test_what_users_did_lately_is_told_when_it_is_asked_for(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.chat()).status_code == 200
    await world.settle()
    [plain] = (await get(world, "user_id=ann"))["allocations"]
    assert (plain["last_request_at"], plain["credits_by_day"]) == (None, None)
    for query in ("user_id=ann&activity=true", "sort=user&search=ann&activity=true"):
        [told] = (await get(world, query))["allocations"]
        assert told["last_request_at"] is not None
        assert (len(told["credits_by_day"]), sum(told["credits_by_day"])) == (
            14,
            told["used_credits"],
        )
        assert told["credits_by_day"][-1] > 0
    mine = await world.client.get(f"{BILLING}/billing/user", headers=world.auth("ann"))
    assert mine.json()["usage_last_30_days"]["last_request_at"] == told["last_request_at"]
