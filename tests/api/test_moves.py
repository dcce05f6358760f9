"""Transfer, deallocate and remove over HTTP, while streams are open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, NOTHING_ENDED, World

from taximeter.settler.moves.closing import Closed, close_all

CREDITS = f"{BILLING}/credits/acme"


async def post(world: World, path: str, body: dict[str, Any], key: str | None = None) -> Any:
    headers = {**world.auth("boss"), **({"Idempotency-Key": key} if key else {})}
    return await world.client.post(f"{CREDITS}/{path}", json=body, headers=headers)


async def transfer(
    world: World, source: str, target: str, credits: object, key: str | None = None
) -> Any:
    body = {"from_user_id": source, "to_user_id": target, "credits": credits}
    return await post(world, "transfer", body, key)


async def two(world: World) -> None:
    """ann has 20 credits of 100, bob is a member."""
    await world.funded("ann", 20.0)
    await world.add_member("bob")


async def pool(world: World) -> dict[str, float]:
    document: dict[str, float] = (
        await world.client.get(CREDITS, headers=world.auth("boss"))
    ).json()
    return document


async def test_a_transfer(world: World) -> None:
    await two(world)
    response = await transfer(world, "ann", "bob", 5.5)
    assert response.status_code == 200, response.text
    document = response.json()
    move_id = document.pop("move_id")
    assert document == {
        "success": True,
        "transferred_credits": 5.5,
        "from_user_id": "ann",
        "to_user_id": "bob",
        "live": True,
    }
    assert (await world.balance("ann")).available == 14_500
    assert (await world.balance("bob")).available == 5_500
    figures = await pool(world)
    assert (figures["allocated_credits"], figures["used_credits"]) == (20.0, 0.0)
    usage = await world.client.get(f"{CREDITS}/usage", headers=world.auth("boss"))
    assert usage.json()["total_requests"] == 0, "no usage report shows it"
    row = await world.stores.pool.fetchrow(
        "SELECT actor, target FROM taximeter.audit_log WHERE action = 'org.credits.transferred'"
    )
    assert row is not None
    assert tuple(row) == ("boss", "ann")
    for user, total in (("boss", 1), ("ann", 1), ("bob", 1)):
        listed = await world.client.get(f"{CREDITS}/moves", headers=world.auth(user))
        assert listed.json()["total"] == total
        (shown,) = listed.json()["moves"]
        assert (shown["id"], shown["kind"], shown["credits"]) == (move_id, "transfer", 5.5)
        assert (shown["from_user_id"], shown["to_user_id"]) == ("ann", "bob")
        assert shown["moved_by"] == "boss"
    other = await world.client.get(f"{CREDITS}/moves?user_id=bob", headers=world.auth("ann"))
    assert other.status_code == 403
    await world.prove()


async def test_held_credits_are_not_transferred(world: World) -> None:
    await two(world)
    meter = await world.app.state.services.meters.get()
    await meter.reserve("acme", "ann", 15_000, request_id="stream")
    refused = await transfer(world, "ann", "bob", 5.001)
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "code": "INSUFFICIENT_CREDITS",
        "message": "Insufficient credits to transfer",
        "details": {"need": 5.001, "have": 5.0, "held": 15.0},
    }
    assert (await transfer(world, "ann", "bob", 5.0)).status_code == 200
    await meter.commit("acme", "ann", "stream", 15_000)
    await world.prove()


BAD: list[Any] = [
    ({"credits": 0.0029}, 422, "at most 3 decimals"),
    ({"credits": 0}, 422, "more than 0"),
    ({"credits": "5"}, 422, "JSON number"),
    ({"credits": 1e10}, 422, "at most 1000000000"),
    ({"to_user_id": "ann"}, 422, "another user"),
    ({"to_user_id": ""}, 422, "to_user_id"),
    ({"reason": "x"}, 422, "unknown field"),
    ({"to_user_id": "stranger"}, 400, "active members"),
    ({"from_user_id": "stranger"}, 400, "active members"),
]


async def test_a_bad_transfer_says_why_and_changes_nothing(world: World) -> None:
    await two(world)
    for change, status, words in BAD:
        body = {"from_user_id": "ann", "to_user_id": "bob", "credits": 1.0, **change}
        response = await post(world, "transfer", body)
        assert response.status_code == status, response.text
        assert words in response.json()["detail"]
    assert (await world.balance("ann")).available == 20_000
    assert await world.stores.pool.fetchval("SELECT count(*) FROM taximeter.moves") == 0


async def test_the_same_key_gets_the_same_answer(world: World) -> None:
    await two(world)
    answers = await asyncio.gather(*(transfer(world, "ann", "bob", 2.0, "k1") for _ in range(10)))
    assert {one.status_code for one in answers} == {200}
    assert len({one.text for one in answers}) == 1
    assert (await world.balance("bob")).available == 2_000
    assert (await transfer(world, "ann", "bob", 3.0, "k1")).status_code == 409
    # As with every endpoint: what was refused changed nothing, and the key may be tried again.
    assert (await transfer(world, "ann", "bob", 50.0, "k2")).status_code == 400
    assert (await world.allocate("ann", 40.0)).status_code == 200
    assert (await transfer(world, "ann", "bob", 50.0, "k2")).status_code == 200
    # A member who has left since does not change what was done.
    await world.client.delete(f"{BILLING}/orgs/acme/members/bob", headers=world.auth("boss"))
    assert (await transfer(world, "ann", "bob", 2.0, "k1")).text == answers[0].text
    first = await post(world, "deallocate", {"user_id": "ann", "credits": 4.0}, "k3")
    assert (await world.allocate("boss", 1.0)).status_code == 200
    second = await post(world, "deallocate", {"user_id": "ann", "credits": 4.0}, "k3")
    assert first.text == second.text
    await world.prove()


async def test_a_deallocation(world: World) -> None:
    await two(world)
    meter = await world.app.state.services.meters.get()
    await meter.charge("acme", "ann", 1_000)
    await meter.reserve("acme", "ann", 9_000, request_id="stream")
    refused = await post(world, "deallocate", {"user_id": "ann", "credits": 10.001})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert "Need 10.001, have 10.000, held by running requests 9.000" in refused.json()["detail"]
    done = await post(world, "deallocate", {"user_id": "ann", "credits": 10.0})
    assert done.status_code == 200, done.text
    document = done.json()
    assert document.pop("move_id")
    assert document == {
        "success": True,
        "deallocated_credits": 10.0,
        "user_id": "ann",
        "pool_updated": {"allocated_credits": 10.0, "available_credits": 90.0},
        "live": True,
    }
    assert (await world.balance("ann")).available == 0
    nobody = await post(world, "deallocate", {"user_id": "stranger", "credits": 1.0})
    assert nobody.status_code == 404
    nothing = await post(world, "deallocate", {"user_id": "bob", "credits": 1.0})
    assert (nothing.status_code, nothing.json()["error"]["details"]["have"]) == (400, 0.0)
    await meter.release("acme", "ann", "stream")
    await world.prove()


async def test_a_removed_member_finishes_what_runs(world: World) -> None:
    await two(world)
    meter = await world.app.state.services.meters.get()
    await meter.reserve("acme", "ann", 12_000, request_id="stream")
    removed = await world.client.delete(
        f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
    )
    figures = {"user_id": "ann", "returned_credits": 8.0, "closing": True}
    assert removed.json() == {**figures, **NOTHING_ENDED}
    audited = await world.stores.pool.fetch(
        "SELECT DISTINCT actor, request_id FROM taximeter.audit_log"
        " WHERE action IN ('org.member.removed', 'org.credits.returned')"
    )
    assert [tuple(row) for row in audited] == [("boss", removed.headers["x-request-id"])]
    assert (await pool(world))["available_credits"] == 88.0
    assert (await world.chat()).status_code == 403
    await meter.commit("acme", "ann", "stream", 7_000)
    for _ in range(2):
        await close_all(world.stores, Closed())
        await world.settle()
    figures = await pool(world)
    assert (figures["available_credits"], figures["used_credits"]) == (93.0, 7.0)
    await close_all(world.stores, Closed())
    listed = await world.client.get(f"{CREDITS}/moves", headers=world.auth("boss"))
    assert [(one["kind"], one["credits"]) for one in listed.json()["moves"]] == [
        ("removal", 5.0),
        ("removal", 8.0),
    ]
    active = await world.client.get(
        f"{CREDITS}/allocations?is_active=true", headers=world.auth("boss")
    )
    assert active.json()["total"] == 0
    await world.prove()


async def test_without_redis_nothing_moves_and_a_removal_waits(world: World) -> None:
    await two(world)
    for shard in range(2):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "epoch", "fenced")
    response = await transfer(world, "ann", "bob", 1.0, "k1")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    removed = await world.client.delete(
        f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
    )
    figures = {"user_id": "ann", "returned_credits": 0.0, "closing": True}
    assert removed.json() == {**figures, **NOTHING_ENDED}
    for shard in range(2):
        await world.stores.redis.hset(world.stores.keys(shard).meta, "epoch", "1")
    await close_all(world.stores, Closed())
    assert (await pool(world))["available_credits"] == 100.0
    again = await transfer(world, "ann", "bob", 1.0, "k1")
    assert again.status_code == 400, "she is no member any more, and nothing was moved before"
    await world.prove()


@pytest.mark.parametrize("path", ["transfer", "deallocate"])
async def test_a_caller_who_hangs_up_leaves_nothing_half_done(world: World, path: str) -> None:
    await two(world)
    body: dict[str, Any] = {"credits": 1.0}
    body |= {"user_id": "ann"} if path == "deallocate" else {
        "from_user_id": "ann", "to_user_id": "bob",
    }  # fmt: skip
    calls = [asyncio.create_task(post(world, path, body)) for _ in range(6)]

    async def begun() -> object:
        return await world.stores.pool.fetchval("SELECT EXISTS (SELECT FROM taximeter.moves)")

    await eventually(begun, what="a move that was begun")
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await world.app.state.services.tracker.drain(10)
    counts = await world.stores.pool.fetch("SELECT DISTINCT state FROM taximeter.moves")
    assert {row["state"] for row in counts} == {"done"}
    done = await world.stores.pool.fetchval("SELECT count(*) FROM taximeter.moves")
    assert (await world.balance("ann")).available == 20_000 - 1_000 * done
    await world.prove()
