"""What a console asks for beside the routes that curl needs: stories of requests, open holds, what
is live, whether the books are right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.billing import charges
from taximeter.api.routes import live as live_route
from taximeter.api.running import live_looks
from taximeter.meter import Usage

ACME = f"{BILLING}/credits/acme"
SYSTEM = f"{BILLING}/system"


async def get(world: World, path: str, who: str = "boss", status: int = 200) -> Any:
    headers = world.auth(who, system_admin=who == "root")
    answer = await world.client.get(path, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_damaged_hold_keeps_nobody_from_the_others(world: World) -> None:
    await world.funded("ann", 50.0)
    meter = await world.app.state.services.meters.get()
    await meter.reserve("acme", "ann", 5000, request_id="r-1")
    holds = world.stores.keys(0).holds
    damage = {"acme/no-record": "damaged", "acme/no-number": "x\tacme/ann\t0\t\t", b"acme/\xff": ""}
    for name, record in damage.items():
        await world.stores.redis.hset(holds, name, record)
    for who in ("boss", "ann"):
        found = (await get(world, f"{ACME}/holds", who))["holds"]
        assert [one["request_id"] for one in found] == ["r-1"]


async def test_a_request_tells_its_story_from_hold_to_refund(world: World) -> None:
    await world.funded("ann", 50.0)
    await world.add_member("bob")
    meter = await world.app.state.services.meters.get()
    usage = Usage(service_type="llm_inference", service_name="gpt-4o", metadata={"tokens": 7})
    await meter.reserve("acme", "ann", 5000, request_id="r-1", usage=usage)
    await meter.touch("acme", "ann", "r-1", 1200)
    story = await get(world, f"{ACME}/requests/r-1")
    assert (story["state"], story["settlement"], story["cost_credits"]) == ("open", "open", None)
    assert story["hold"]["held_credits"] == 5.0
    assert story["hold"]["reported_credits"] == 1.2
    assert story["hold"]["service_name"] == "gpt-4o"
    assert story["hold"]["overdue"] is False
    holds = await get(world, f"{ACME}/holds")
    assert holds["holds"] == [story["hold"]]
    assert holds["next"] is None
    # Members see their own, and nothing of anybody else's.
    assert (await get(world, f"{ACME}/holds", "ann"))["holds"] == holds["holds"]
    assert (await get(world, f"{ACME}/holds", "bob"))["holds"] == []
    await get(world, f"{ACME}/holds?user_id=ann", "bob", 403)
    await get(world, f"{ACME}/requests/r-1", "bob", 404)
    await get(world, f"{ACME}/requests/r-1", "ann")

    await meter.commit("acme", "ann", "r-1", 3456, usage=usage)
    story = await get(world, f"{ACME}/requests/r-1")
    assert (story["state"], story["settlement"], story["cost_credits"]) == (
        *("committed", "settled"),
        3.456,
    )
    (charge,), (booking,) = story["charges"], story["bookings"]
    assert (charge["credits_used"], charge["reserved_credits"]) == (3.456, 5.0)
    assert charge["metadata"] == {"tokens": 7}
    assert booking["batch"]["seq_first"] <= booking["seq"] <= booking["batch"]["seq_last"]
    refund = {"user_id": "ann", "credits": 1.5, "reason": "an outage", "request_id": "r-1"}
    answer = await world.client.post(f"{ACME}/refund", json=refund, headers=world.root)
    assert answer.status_code == 200, answer.text
    (found,) = (await get(world, f"{ACME}/requests/r-1", "ann"))["refunds"]
    assert (found["credits"], found["reason"], found["refunded_by"]) == (1.5, "an outage", "root")
    await get(world, f"{ACME}/requests/r-1", "bob", 404)

    # What cost nothing is known to its user alone, for as long as Redis knows it.
    await meter.reserve("acme", "ann", 1000, request_id="r-2")
    await meter.release("acme", "ann", "r-2")
    story = await get(world, f"{ACME}/requests/r-2", "ann")
    assert (story["state"], story["settlement"], story["charges"]) == ("released", "none", [])
    await get(world, f"{ACME}/requests/r-2", "bob", 404)


async def test_lists_of_charges_and_pictures_of_usage_add_up(world: World) -> None:
    await world.funded("ann", 90.0)
    await world.add_member("bob")
    await world.allocate("bob", 5.0)
    meter = await world.app.state.services.meters.get()
    for number in range(1, 16):
        usage = Usage(service_type="llm_inference", service_name=f"model-{number:02}")
        await meter.charge("acme", "ann", 100 * number, request_id=f"c-{number}", usage=usage)
    await meter.charge("acme", "bob", 7, request_id="b-1", usage=Usage(service_name="model-01"))
    series = await get(world, f"{ACME}/usage/series?by=model&step=week")
    keys = [one["key"] for one in series["series"]]
    assert keys == [*(f"model-{number:02}" for number in range(15, 3, -1)), None]
    assert series["total_credits_used"] == 12.007
    assert round(sum(one["credits_used"] for one in series["series"]), 3) == 12.007
    assert all(len(one["credits"]) == len(series["periods"]) for one in series["series"])
    assert series["series"][-1]["requests"] == 4
    by_user = await get(world, f"{ACME}/usage/series?by=user")
    assert [(one["key"], one["credits_used"]) for one in by_user["series"]] == [
        ("ann", 12.0),
        ("bob", 0.007),
    ]
    own = await get(world, f"{ACME}/usage/series?by=user", "bob")
    assert [(one["key"], one["credits_used"]) for one in own["series"]] == [("bob", 0.007)]
    assert (await get(world, f"{ACME}/usage/series", "bob"))["total_requests"] == 1

    async def ids(query: str) -> list[str]:
        found = await get(world, f"{ACME}/requests?{query}")
        return [one["request_id"] for one in found["requests"]]

    assert await ids("credits_min=1.4") == ["c-15", "c-14"]
    assert await ids("credits_max=0.1") == ["b-1", "c-1"]
    assert await ids("late=true") == []
    assert len(await ids("late=false")) == 16
    refused = await get(world, f"{ACME}/requests?credits_min=0.0001", status=400)
    assert refused["error"]["details"] == {"field": "credits_min"}


async def test_what_was_set_aside_is_answered_once_and_charged_once(world: World) -> None:
    await world.funded("ann", 50.0)
    rows = [
        ("late-org", "ann", "r-1", 250, "late-org"),
        ("acme", "ann", "r-2", 60_000, "acme"),
        (None, None, None, None, "?"),
        ("acme", "ann", "r-4", 250, "acme"),
    ]
    for org, user, request, amount, name in rows:
        raw = f'commit\t{name}/ann\t{name}/r\t1\t1\t-\t{{"type":"chat","name":"m","meta":{{}}}}'
        await world.stores.pool.execute(
            "INSERT INTO taximeter.dead_letters"
            " (shard, epoch, seq, reason, org_id, user_id, request_id, amount, raw)"
            " VALUES (0, 0, NULL, 'unknown_organization', $1, $2, $3, $4, $5)",
            *(org, user, request, amount, raw.encode()),
        )
    page = await get(world, f"{SYSTEM}/dead-letters?limit=3", "root")
    rest = await get(world, f"{SYSTEM}/dead-letters?cursor={page['next']}", "root")
    letters = [*page["dead_letters"], *rest["dead_letters"]]
    good, unread, dear, unknown = (one["id"] for one in letters)
    assert (rest["next"], letters[0]["credits"], letters[1]["credits"]) == (None, 0.25, None)

    async def answer(letter: int, what: str) -> httpx.Response:
        return await world.client.post(
            f"{SYSTEM}/dead-letters/{letter}/{what}", json={"note": "seen"}, headers=world.root
        )

    for letter, status in ((unknown, 400), (dear, 400), (unread, 400)):
        refused = await answer(letter, "retry")
        assert refused.status_code == status, refused.text
    assert refused.json()["detail"].startswith("It does not say whom to charge")
    books = await get(world, f"{SYSTEM}/books", "root")
    assert books["dead_letters"] == {"open": 4, "acknowledged": 0, "charged": 0}
    # Two at once: one charge.
    both = await asyncio.gather(answer(good, "retry"), answer(good, "retry"))
    assert sorted(one.status_code for one in both) == [200, 409]
    assert (await answer(good, "acknowledge")).status_code == 409
    assert (await answer(unread, "acknowledge")).json()["state"] == "acknowledged"
    (charge,) = await world.charges()
    assert (charge["credits_used"], charge["request_id"]) == (250, "r-4")
    assert (charge["service_type"], charge["service_name"]) == ("chat", "m")
    assert (await world.balance()).available == 49_750
    books = await get(world, f"{SYSTEM}/books", "root")
    assert books["dead_letters"] == {"open": 2, "acknowledged": 1, "charged": 1}
    only = await get(world, f"{SYSTEM}/dead-letters?state=charged", "root")
    assert [one["id"] for one in only["dead_letters"]] == [good]
    log = await get(world, f"{SYSTEM}/audit?limit=2", "root")
    assert [one["action"] for one in log["entries"]] == [
        "system.dead_letter.acknowledged",
        "system.dead_letter.charged",
    ]
    assert log["entries"][1]["after"]["charged_credits"] == 0.25
    older = await get(world, f"{SYSTEM}/audit?cursor={log['next']}", "root")
    assert {one["id"] for one in log["entries"]}.isdisjoint({one["id"] for one in older["entries"]})
    assert older["next"] is None


async def test_a_loss_is_acknowledged_once_and_charges_nobody(world: World) -> None:
    await world.funded("ann", 50.0)
    await world.stores.pool.execute(
        "INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last)"
        " VALUES (0, 1, 5, 7), (0, 1, 11, 11)"
    )

    async def answer(seq: int, note: str = "Redis lost its disk") -> httpx.Response:
        path = f"{SYSTEM}/lost-events/0/1/{seq}/acknowledge"
        return await world.client.post(path, json={"note": note}, headers=world.root)

    before = (await world.balance()).available
    assert (await answer(6)).status_code == 404
    assert (await answer(5, "  ")).status_code == 422
    both = await asyncio.gather(answer(5), answer(5))
    assert sorted(one.status_code for one in both) == [200, 409]
    (done,) = (one.json() for one in both if one.status_code == 200)
    assert (done["events"], done["acknowledged_by"]) == (3, "root")
    assert done["note"] == "Redis lost its disk"
    books = await get(world, f"{SYSTEM}/books", "root")
    known = {one["seq_first"]: one["acknowledged_by"] for one in books["lost_events"]}
    assert known == {5: "root", 11: None}
    log = await get(world, f"{SYSTEM}/audit?limit=1", "root")
    assert log["entries"][0]["action"] == "system.lost_events.acknowledged"
    assert log["entries"][0]["after"] == {"events": 3, "note": "Redis lost its disk"}
    assert (await world.balance()).available == before
    # What is settled and has no charge is noted by a role of the settler's alone.
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await world.app.state.services.pool.execute(
            "INSERT INTO taximeter.acknowledgements (what, shard, epoch, events, note)"
            " VALUES ('uncharged', 0, 1, 1, 'x')"
        )


async def test_what_shows_a_secret_is_made_once_however_often_it_is_asked(world: World) -> None:
    await world.subscribe()
    bodies = {
        "keys": {"name": "gateway", "operations": ["llm"]},
        "receivers": {"name": "hook", "kind": "webhook", "url": "https://hooks.example.com/x"},
    }
    for what, body in bodies.items():
        path = f"{BILLING}/orgs/acme/{what}"

        async def ask(
            key: str, path: str = path, body: dict[str, Any] = body, **changed: str
        ) -> httpx.Response:
            headers = world.auth("boss") | {"Idempotency-Key": key}
            return await world.client.post(path, json=body | changed, headers=headers)

        answers = await asyncio.gather(*(ask("one") for _ in range(3)))
        assert sorted(one.status_code for one in answers) == [200, 409, 409], what
        (made,) = (one.json() for one in answers if one.status_code == 200)
        again = (await ask("one")).json()
        made_id = made["api_key"]["key_id"] if what == "keys" else made["receiver"]["receiver_id"]
        assert again["error"]["details"]["id"] == made_id
        secret = made["key"] if what == "keys" else made["secret"]
        assert secret not in str(again)
        # The same key asks for nothing else, and another one for another.
        assert (await ask("one", name="other")).status_code == 409
        assert len((await get(world, path))[what]) == 1
        assert (await ask("two")).status_code == 200
        kept = await world.stores.pool.fetch("SELECT answer FROM taximeter.idempotent_answers")
        assert not any(secret in str(row["answer"]) for row in kept)


async def test_members_are_found_by_a_part_of_their_id_or_address(world: World) -> None:
    await world.subscribe()
    for user in ("anna", "susanne", "bob"):
        await world.add_member(user)
    await world.stores.pool.execute(
        "INSERT INTO taximeter.users (user_id, email) VALUES ('bob', 'Robert.Anders@example.com')"
        " ON CONFLICT (user_id) DO UPDATE SET email = EXCLUDED.email"
    )

    async def found(search: str, more: str = "") -> list[str]:
        page = await get(world, f"{BILLING}/orgs/acme/members?search={search}{more}")
        assert (page["total"], page["next"]) == (None, None)
        return [one["user_id"] for one in page["members"]]

    assert set(await found("ANN")) == {"anna", "susanne"}
    assert await found("robert.anders@") == ["bob"]
    assert len(await found("ann", "&limit=1")) == 1
    assert await found("%") == await found("ann", "&status=invited") == []
    await get(world, f"{BILLING}/orgs/acme/members?search=a", "anna", 403)


async def test_the_log_of_everything_is_narrowed_to_one_organisation(world: World) -> None:
    for org in ("acme", "globex"):
        assert (await world.subscribe(org, "boss", 100.0)).status_code == 200
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await get(world, f"{SYSTEM}/audit?org_id=globex&limit=1{cursor}", "root")
        found += page["entries"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    everything = (await get(world, f"{SYSTEM}/audit?limit=100", "root"))["entries"]
    assert {one["org_id"] for one in everything} >= {"acme", "globex"}
    assert found == [one for one in everything if one["org_id"] == "globex"]
    assert (await get(world, f"{SYSTEM}/audit?org_id=nobody", "root"))["entries"] == []


async def test_books_show_what_was_proved_and_when(world: World) -> None:
    before = await get(world, f"{SYSTEM}/books", "root")
    assert (before["verdict"], before["proofs"], before["drift"]) == ("unproved", [], None)
    await world.stores.pool.execute(
        "INSERT INTO taximeter.check_results VALUES"
        """ ('I2', 'used adds up', true, '{"rows": 7}', '[]', '[]', '[]', NULL, now(), now()),"""
        """ ('I10', 'late', NULL, '{}', '[]', '[]', '["shard 1"]', NULL, now(), NULL)"""
    )
    await world.stores.pool.execute(
        "UPDATE taximeter.check_state SET checked_at = now(), holds = true, seal_n = 3"
    )
    right = await get(world, f"{SYSTEM}/books", "root")
    assert (right["verdict"], right["look"]["seals"]) == ("right", 3)
    assert [one["name"] for one in right["proofs"]] == ["I2", "I10"]
    assert right["proofs"][0]["figures"] == {"rows": 7}
    assert right["proofs"][1]["could_not_be_read"] == ["shard 1"]
    await world.stores.pool.execute(
        "UPDATE taximeter.check_results SET holds = false, violations = '[\"x\"]'"
        " WHERE invariant = 'I2'"
    )
    wrong = await get(world, f"{SYSTEM}/books", "root")
    assert (wrong["verdict"], wrong["proofs"][0]["violations"]) == ("wrong", ["x"])


async def test_a_price_is_that_of_the_charge(world: World) -> None:
    await world.funded("ann", 50.0)
    chat = await world.chat()
    story = await get(world, f"{ACME}/requests/{chat.headers['X-Request-Id']}")
    meta = story["charges"][0]["metadata"]
    query = f"model=gpt-4o-mini&input={meta['prompt_tokens']}&output={meta['completion_tokens']}"
    quoted = await get(world, f"{BILLING}/prices/quote?{query}", "ann")
    assert quoted["credits"] == story["cost_credits"]
    assert (quoted["source"], quoted["identity"]) == (
        story["charges"][0]["price"]["source"],
        story["charges"][0]["price"]["of"],
    )
    page = await get(world, f"{BILLING}/prices?search=gpt-4o-mini&limit=2", "ann")
    assert page["total"] > 2
    assert page["prices"][0]["rates"][0].keys() >= {"kind", "unit", "dollars", "credits"}
    following = await get(
        world, f"{BILLING}/prices?search=gpt-4o-mini&limit=2&cursor={page['next']}", "ann"
    )
    assert following["prices"][0]["model"] > page["prices"][-1]["model"]
    unknown = await get(world, f"{BILLING}/prices/quote?model=gpt-4o-minni", "ann", 404)
    assert unknown["error"]["details"]["near"]
    upstreams = await get(world, f"{SYSTEM}/upstreams", "root")
    assert [one["name"] for one in upstreams["upstreams"]] == ["simulated"]


Events = AsyncIterator[tuple[str, dict[str, Any]]]


@asynccontextmanager
async def streaming(world: World, path: str, headers: dict[str, str]) -> AsyncIterator[Events]:
    async def events(answer: httpx.Response) -> Events:
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))

    headers = {**headers, "Accept": "text/event-stream"}
    async with world.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


async def next_of(events: Events, wanted: str, **fields: Any) -> dict[str, Any]:
    async with asyncio.timeout(60):
        async for name, data in events:
            if name == wanted and all(data[field] == value for field, value in fields.items()):
                return data
    raise AssertionError(f"the stream has ended without {wanted} of {fields}")


async def test_a_stream_tells_what_changes_and_ends_with_the_right_to_see_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_route, "LOOKED_UP_EVERY_S", 0.0)
    await world.funded("ann", 50.0)
    looks = world.app.state.services.looks
    meter = await world.app.state.services.meters.get()
    path = f"{ACME}/live?user=ann&user=nobody"
    async with streaming(world, path, world.auth("boss")) as events:
        first = await next_of(events, "balances")
        assert first["pool"]["allocated_credits"] == 50.0
        assert first["members"][0] == {
            **{"user_id": "ann", "live": True, "held_credits": 0.0},
            **{"available_credits": 50.0, "remaining_credits": 50.0},
        }
        assert first["members"][1]["live"] is False
        await next_of(events, "beat", live=True)
        await meter.reserve("acme", "ann", 2400, request_id="r-1")
        held = await next_of(events, "balances")
        assert held["members"][0]["available_credits"] == 47.6
        assert held["members"][0]["held_credits"] == 2.4
        # One look serves everybody who watches.
        async with streaming(world, f"{ACME}/live", world.auth("ann")) as own:
            mine = await next_of(own, "balances")
            assert (mine["pool"], [one["user_id"] for one in mine["members"]]) == (None, ["ann"])
            assert looks.watched == 1
            removed = await world.client.delete(
                f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
            )
            assert removed.status_code == 200, removed.text
            assert (await next_of(own, "end"))["code"] == "NOT_FOUND"

    # Nobody watches: nothing is looked at.
    async def nothing() -> bool:
        return looks.watched == 0

    await eventually(nothing, what="the end of the looks")


async def test_a_stream_ends_with_its_session_and_with_the_process(world: World) -> None:
    await world.funded("ann", 50.0)
    token = world.token("boss", ttl_s=3)
    short = {"Authorization": f"Bearer {token}"}
    async with (
        streaming(world, f"{ACME}/live", world.auth("ann")) as other,
        streaming(world, f"{SYSTEM}/live", world.root) as system,
    ):
        assert (await next_of(system, "system"))["shards"]
        async with streaming(world, f"{ACME}/live", short) as events:
            assert (await next_of(events, "end"))["code"] == "UNAUTHORIZED"
        world.app.when_stopping()
        assert (await next_of(other, "end"))["code"] == "server_stops"
        assert (await next_of(system, "end"))["code"] == "server_stops"


async def test_streams_of_one_user_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_looks, "OF_USER_MAX", 1)
    await world.funded("ann", 50.0)
    async with streaming(world, f"{ACME}/live", world.auth("ann")) as events:
        await next_of(events, "balances")
        refused = await world.client.get(
            f"{ACME}/live", headers={**world.auth("ann"), "Accept": "text/event-stream"}
        )
        assert refused.status_code == 429, refused.text
        # Somebody else, and who asks once, are not concerned.
        assert (await get(world, f"{ACME}/live", "ann"))["members"][0]["live"] is True


async def test_a_page_of_what_no_index_finds_is_bounded_and_leads_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that nobody used must not have every charge of an organisation read."""
    monkeypatch.setattr(charges, "LOOKED_AT_MAX", 5)
    await world.funded("ann", 50.0)
    meter = await world.app.state.services.meters.get()
    for number in range(12):
        usage = Usage(service_type="llm", service_name="rare" if number in (3, 4) else "often")
        await meter.charge("acme", "ann", 10 + number, request_id=f"r-{number}", usage=usage)
    await world.settle()

    async def walk(query: str) -> list[list[str]]:
        """The request ids of each page."""
        pages, cursor = [], ""
        while not pages or cursor:
            place = f"&cursor={cursor}" if cursor else ""
            page = await get(world, f"{ACME}/requests?limit=2&{query}{place}")
            pages.append([one["request_id"] for one in page["requests"]])
            cursor = page["next"] or ""
        return pages

    assert await walk("service_name=rare") == [[], ["r-4", "r-3"], []]
    assert await walk("service_name=none") == [[], [], []]
    assert await walk("credits_min=0.021") == [["r-11"], [], []]
    # What an index finds is not looked for: page after page, each of them full, and no empty one.
    assert len(await walk("user_id=ann")) == 6
    assert await walk("request_id=r-0") == [["r-0"]]
    assert await walk("request_id=none") == [[], [], []]
