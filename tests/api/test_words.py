"""What answers say is so: types, days, whose limit it is, and what a figure counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from support.world import BILLING, World

CREDITS = f"{BILLING}/credits/acme"
BODY = b'{"user_id": "boss", "credits": 1.0}'


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""]
)
async def test_a_body_of_another_type_is_415_with_a_sentence(
    world: World, content_type: str
) -> None:
    assert (await world.subscribe()).status_code == 200
    headers = world.auth("boss") | ({"Content-Type": content_type} if content_type else {})
    answer = await world.client.post(f"{CREDITS}/allocate", content=BODY, headers=headers)
    assert answer.status_code == 415, answer.text
    assert answer.json()["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"
    assert "application/json" in answer.json()["detail"]
    assert await world.stores.pool.fetchval("SELECT count(*) FROM user_credit_allocations") == 0


async def test_json_under_its_other_names_is_read(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/x+json"):
        headers = world.auth("boss") | {"Content-Type": kind}
        answer = await world.client.post(f"{CREDITS}/allocate", content=BODY, headers=headers)
        assert answer.status_code == 200, (kind, answer.text)


@pytest.mark.parametrize("day", ["20261102", "1764633600", "86400", "0", "-86400"])
async def test_a_day_is_no_number(world: World, day: str) -> None:
    """20261102 read as seconds is a day in 1970, and the report of another range."""
    assert (await world.subscribe()).status_code == 200
    for name in ("start_date", "end_date"):
        answer = await world.client.get(f"{CREDITS}/usage?{name}={day}", headers=world.auth("boss"))
        assert answer.status_code == 422, (name, day)
        assert "2026-11-02" in answer.json()["detail"]


async def test_nor_is_a_time(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for number in (32_503_680_000, "32503680000", 4.1e9):
        body = {"user_id": "boss", "credits": 1.0, "expires_at": number}
        answer = await world.client.post(
            f"{CREDITS}/allocate", json=body, headers=world.auth("boss")
        )
        assert answer.status_code == 422, number
        assert answer.json()["error"]["details"]["fields"][0]["field"] == "expires_at"


async def test_a_402_says_whose_limit_it_is_in_the_words_that_are_known(world: World) -> None:
    """The pool has 100 credits; what is out is what was given to ann, or that nothing was."""
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    for given in (None, 0.001):
        if given is not None:
            assert (await world.allocate("ann", given)).status_code == 200
        refused = (await world.chat()).json()
        assert refused["detail"].startswith("Insufficient organization credits. Need ")
        assert (
            refused["error"]["details"]["limit_of"] == "the user's allocation in the organization"
        )


async def audit(world: World) -> list[dict[str, Any]]:
    answer = await world.client.get(f"{BILLING}/orgs/acme/audit", headers=world.auth("boss"))
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries[::-1]


async def test_credits_in_the_audit_log_are_credits_and_an_allocation_is_one_entry(
    world: World,
) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    assert (await world.allocate("ann", 12.5)).status_code == 200
    assert (await world.allocate("ann", 0.25)).status_code == 200
    money = [one for one in await audit(world) if "alloc" in one["action"]]
    assert [(one["action"], one["before"], one["after"]) for one in money] == [
        (
            "user.allocation.created",
            {"allocated_credits": 0.0, "pool_available_credits": 100.0},
            {"allocated_credits": 12.5, "pool_available_credits": 87.5},
        ),
        (
            "org.credits.allocated",
            {"allocated_credits": 12.5, "pool_available_credits": 87.5},
            {"allocated_credits": 12.75, "pool_available_credits": 87.25},
        ),
    ]
    created = next(one for one in await audit(world) if one["action"] == "org.subscription.created")
    assert created["after"]["initial_credits"] == 100.0
    assert datetime.fromisoformat(created["at"]) <= datetime.now(UTC)


async def test_no_cache_keeps_an_answer_and_no_page_is_framed(world: World) -> None:
    """A key is shown once; who uses the browser after somebody must not find it."""
    assert (await world.subscribe()).status_code == 200
    made = await world.client.post(
        f"{BILLING}/orgs/acme/keys",
        json={"name": "k", "operations": ["llm"]},
        headers=world.auth("boss"),
    )
    refused = await world.client.get(CREDITS)
    unknown = await world.client.get("/nothing")
    for answer in (made, refused, unknown):
        assert answer.headers["Cache-Control"] == "no-store", answer.url
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = await world.client.get("/docs")
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    assert (await world.client.get("/openapi.json")).headers["X-Frame-Options"] == "DENY"
