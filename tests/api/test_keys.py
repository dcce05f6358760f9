"""API keys: made by an admin, shown once, narrow, mortal, and gone within seconds."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import httpx
import pytest
from support.old_keys import SEAL, make_old_key
from support.sidecar import JSON, calling, problem, served
from support.waiting import eventually
from support.world import BILLING, CHAT, World

from taximeter.api.access import api_keys as key_store
from taximeter.api.access.api_keys import (
    BELIEVED_S,
    KEYS_A_LOOK_MAX,
    UNKNOWN_WAITING_MAX,
    KeysBusy,
    KeyStore,
)
from taximeter.api.access.key_text import KeyText, make_key, plain_digits, read_key, sealed_digits
from taximeter.api.processes.sidecar_keys import Keys
from taximeter.meter.sidecar import create_sidecar

KEYS = f"{BILLING}/orgs/acme/keys"
GATEWAY = ["reserve", "commit", "release", "charge", "touch", "balance", "lookup"]
STOPS_WITHIN_S = BELIEVED_S + 20.0
"""The promise, and what a slow machine may add."""


async def make(world: World, by: str = "boss", **body: Any) -> tuple[str, dict[str, Any]]:
    body = {"name": "gateway", "operations": [*GATEWAY, "llm"], **body}
    response = await world.client.post(KEYS, json=body, headers=world.auth(by))
    assert response.status_code == 200, response.text
    made = response.json()
    return made["key"], made["api_key"]


def bearer(key: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **headers}


async def chat(world: World, key: str, user: str | None = None, **headers: str) -> httpx.Response:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    named = {} if user is None else {"X-User-Id": user}
    return await world.client.post(CHAT, json=body, headers=bearer(key, **named, **headers))


def test_a_key_is_random_and_its_mistakes_are_found_without_asking() -> None:
    made = [make_key(SEAL).text for _ in range(100)] + [make_old_key().text for _ in range(100)]
    assert len(set(made)) == 200
    for number, text in enumerate(made):
        assert re.fullmatch(r"tm_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", text)
        assert read_key(text.encode(), SEAL) == KeyText(text[3:15], is_sealed=number < 100)
        swapped = text[:-1] + ("0" if text[-1] != "0" else "1")
        other = text[:20] + ("0" if text[20] != "0" else "1") + text[21:]
        for wrong in (swapped, other, text + "0", text[:-1], text.upper(), ""):
            assert read_key(wrong.encode(), SEAL) is None
    assert read_key(make_key(b"another" * 5).text.encode(), SEAL) is None
    key = make_key(SEAL)
    assert key.text not in repr(key)


async def test_the_key_is_shown_once_and_kept_as_a_digest(world: World) -> None:
    await world.funded()
    key, view = await make(world)
    assert view["last_four"] == key[-4:]
    assert view["creator_is_admin"] is True
    listed = await world.client.get(KEYS, headers=world.auth("boss"))
    assert listed.json() == {"keys": [view], "total": 1, "limit": 50, "offset": 0}
    secret = key[16:]
    dumped = await world.stores.pool.fetch(
        "SELECT to_jsonb(k)::text AS row FROM taximeter.api_keys AS k"
        " UNION ALL SELECT to_jsonb(a)::text FROM taximeter.audit_log AS a"
    )
    assert not any(secret in row["row"] for row in dumped)
    assert secret not in listed.text
    stored = await world.stores.pool.fetchval("SELECT digest FROM taximeter.api_keys")
    assert stored == sha256(key.encode()).digest()


def another_secret(key: str, seal: bytes | None = None) -> str:
    """A key with the same id that was never made, as one could who has seen the id in a list: with
    the digits of before seals, or with right ones.
    """
    text = key[:16] + make_old_key().text[16:59]
    return text + (
        plain_digits(text.encode()) if seal is None else sealed_digits(seal, text.encode())
    )


async def test_a_key_pays_for_its_user_on_the_llm_route(world: World) -> None:
    await world.funded("ann", 50.0)
    for_all, _ = await make(world)
    for_ann, _ = await make(world, name="of ann", user_id="ann", operations=["llm"])
    assert (await chat(world, for_ann)).status_code == 200
    assert (await chat(world, for_ann, "ann")).status_code == 200
    assert (await chat(world, for_all, "ann", **{"X-Org-Id": "acme"})).status_code == 200
    clients = await world.client.post(
        "/v1/chat/completions",
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
        headers=bearer(for_ann),
    )
    assert clients.status_code == 200
    assert [row["user_id"] for row in await world.charges()] == ["ann"] * 4
    await world.prove()


async def test_a_key_is_no_wider_than_it_was_made(world: World) -> None:
    await world.funded("ann", 50.0)
    await world.add_member("bob")
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    for_all, _ = await make(world)
    for_ann, _ = await make(world, name="of ann", user_id="ann", operations=["llm"])
    for_sidecar, view = await make(world, name="sidecar", operations=GATEWAY)
    seal = await world.app.state.services.keys.seal()
    for key, user, extra, status in (
        (for_all, None, {}, 422),  # It must be said for whom.
        (for_all, "stranger", {}, 404),
        (for_all, "their-boss", {}, 404),  # A member, but of another organisation.
        (for_all, "ann", {"X-Org-Id": "other"}, 403),
        (for_ann, "bob", {}, 403),
        (for_sidecar, "ann", {}, 403),
        (make_old_key().text, "ann", {}, 401),
        (make_key(seal).text, "ann", {}, 401),
        (for_all[:-1] + ("y" if for_all.endswith("x") else "x"), "ann", {}, 401),
        (another_secret(for_all), "ann", {}, 401),
        (another_secret(for_all, seal), "ann", {}, 401),
    ):
        assert (await chat(world, key, user, **extra)).status_code == status, (user, extra)
    # Keys make and take back no keys, and are nobody's session.
    for method, path in (
        ("POST", KEYS),
        ("GET", KEYS),
        ("DELETE", f"{KEYS}/{view['key_id']}"),
        ("GET", f"{BILLING}/credits/acme"),
        ("GET", "/api/v1/auth/user"),
    ):
        response = await world.client.request(method, path, json={}, headers=bearer(for_all))
        assert response.status_code == 401, path
    cookie = await world.client.get(KEYS, headers={"Cookie": f"session_token={for_all}"})
    assert cookie.status_code == 401
    assert world.upstream_calls == 0


async def test_what_cannot_be_asked_for(world: World) -> None:
    await world.funded()
    headers = world.auth("boss")
    far = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    for change, status in (
        ({"operations": []}, 422),
        ({"operations": ["everything"]}, 422),
        ({"operations": ["*"]}, 422),
        ({"expires_at": far}, 422),
        ({"expires_at": past}, 422),
        ({"org_id": "other"}, 422),
        ({"user_id": "stranger"}, 404),
        ({"user_id": "ann", "operations": ["lookup"]}, 400),
    ):
        body = {"name": "x", "operations": ["llm"], **change}
        response = await world.client.post(KEYS, json=body, headers=headers)
        assert response.status_code == status, change
    assert await world.stores.pool.fetchval("SELECT count(*) FROM taximeter.api_keys") == 0


async def test_two_keys_of_a_name_for_rotation_and_no_third(world: World) -> None:
    await world.funded()
    first, view = await make(world)
    second, _ = await make(world)
    assert {(await chat(world, key, "ann")).status_code for key in (first, second)} == {200}
    third = await world.client.post(
        KEYS, json={"name": "gateway", "operations": ["llm"]}, headers=world.auth("boss")
    )
    assert (third.status_code, third.json()["error"]["code"]) == (409, "TOO_MANY_KEYS")
    path = f"{KEYS}/{view['key_id']}"
    revoked = await world.client.delete(path, headers=world.auth("boss"))
    assert revoked.json()["api_key"]["revoked_at"] is not None
    again = await world.client.delete(path, headers=world.auth("boss"))
    assert again.json() == revoked.json()
    await make(world)
    listed = (
        await world.client.get(f"{KEYS}?include_ended=true", headers=world.auth("boss"))
    ).json()
    assert listed["total"] == 3
    assert (await world.client.get(KEYS, headers=world.auth("boss"))).json()["total"] == 2
    actions = await world.stores.pool.fetch(
        "SELECT action FROM taximeter.audit_log WHERE action LIKE 'org.key.%' ORDER BY id"
    )
    assert [row["action"] for row in actions] == [
        "org.key.created",
        "org.key.created",
        "org.key.revoked",
        "org.key.created",
    ]


async def test_a_foreign_key_does_not_exist(world: World) -> None:
    await world.funded()
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    _, view = await make(world)
    foreign = await world.client.delete(
        f"{BILLING}/orgs/other/keys/{view['key_id']}", headers=world.auth("their-boss")
    )
    assert foreign.status_code == 404
    assert await world.stores.pool.fetchval("SELECT revoked_at FROM taximeter.api_keys") is None


@pytest.mark.parametrize("ended_by", ["revoking", "the member", "the organisation", "expiry"])
async def test_a_key_in_use_stops_within_seconds(world: World, ended_by: str) -> None:
    """On the LLM route and on a sidecar, which was not told; and the last use is visible."""
    await world.funded("ann", 50.0)
    key, view = await make(world, user_id="ann", operations=["llm", "charge"])
    meter = await world.app.state.services.meters.get()
    store = KeyStore(world.stores.pool)
    async with (
        served(create_sidecar(meter, keys=Keys(None, store))) as url,
        calling(url) as gateway,
    ):

        async def statuses() -> tuple[int, int]:
            body = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'
            charged = await gateway.raw("/v1/charge", body, **bearer(key))
            return charged.status_code, (await chat(world, key)).status_code

        assert await statuses() == (200, 200)
        match ended_by:
            case "revoking":
                path = f"{KEYS}/{view['key_id']}"
                response = await world.client.delete(path, headers=world.auth("boss"))
                assert response.status_code == 200
            case "the member":
                response = await world.client.delete(
                    f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
                )
                assert response.status_code == 200
            case "the organisation":
                await world.stores.pool.execute("DELETE FROM taximeter.api_keys")
            case "expiry":
                await world.stores.pool.execute(
                    "UPDATE taximeter.api_keys SET created_at = now() - interval '2 days',"
                    " expires_at = now() - interval '1 day'"
                )

        async def both_stopped() -> bool:
            return await statuses() == (401, 401)

        await eventually(both_stopped, within_s=STOPS_WITHIN_S, what="the key's end")
    await store.aclose()


async def test_the_last_use_is_noted_once_a_minute(world: World) -> None:
    await world.funded()
    key, _ = await make(world)
    query = "SELECT last_used_at FROM taximeter.api_keys"
    assert await world.stores.pool.fetchval(query) is None
    assert (await chat(world, key, "ann")).status_code == 200

    async def noted() -> object:
        return await world.stores.pool.fetchval(query)

    await eventually(noted, what="the last use")
    first = await noted()
    other = KeyStore(world.app.state.services.pool)  # As another process would.
    assert await other.find(key.encode()) is not None
    await eventually(lambda: _no_task(other), what="the note")
    assert await noted() == first
    await other.aclose()


async def _no_task(store: KeyStore) -> bool:
    return not store._tasks


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakePool:
    """Postgres as the store asks it, with a count of look-ups, and an off switch."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = True
        self.has_old_keys = False
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, expires_at: float = 9e12) -> bytes:
        made = make_key(SEAL)
        self.rows[made.key_id] = {
            "key_id": made.key_id,
            "org_id": "acme",
            "user_id": None,
            "name": "gateway",
            "operations": ["llm"],
            "digest": made.digest,
            "expires_at": expires_at,
        }
        return made.text.encode()

    async def fetch(self, query: str, key_ids: list[str]) -> list[dict[str, Any]]:
        self.asked += 1
        await self._answer()
        return [self.rows[key_id] for key_id in key_ids if key_id in self.rows]

    async def fetchrow(self, query: str, key_ids: list[str]) -> dict[str, Any] | None:
        return next(iter(await self.fetch(query, key_ids)), None)

    async def fetchval(self, query: str) -> object:
        await self._answer()
        if "key_seal" in query:
            return SEAL
        return self.has_old_keys if "sealed" in query else 1

    async def execute(self, query: str, key_id: str) -> None:
        await self._answer()

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if not self.up:
            raise asyncpg.CannotConnectNowError("down")


async def test_a_busy_key_never_waits_and_a_flood_of_bad_ones_is_cheap() -> None:
    pool, clock = FakePool(), Clock()
    store = KeyStore(pool, clock=clock)  # type: ignore[arg-type]  # As much of a pool as it uses.
    key = pool.add()
    assert store.known(key) is None
    found = await asyncio.gather(*(store.find(key) for _ in range(50)))
    assert all(found)
    assert pool.asked == 1, "all wait for one look-up"
    for _ in range(10):
        clock.now += 0.9
        assert store.known(key) is not None
        assert store.known(key) is not None
        await asyncio.gather(*store._asking.values())
    assert pool.asked == 1 + 5, "every second look is a second after the last"
    asked = pool.asked
    for _ in range(100):
        assert await store.find(b"tm_not-a-key") is None
    assert pool.asked == asked
    for _ in range(100):
        for made_up in (make_old_key(), make_key(b"guessed" * 5)):
            assert await store.find(made_up.text.encode()) is None
    assert pool.asked == asked, "there are no keys of before seals, and the others are not ours"
    pool.has_old_keys = True
    clock.now += BELIEVED_S
    stranger = make_old_key().text.encode()
    for _ in range(100):
        assert await store.find(stranger) is None
    assert pool.asked == asked + 1
    await store.aclose()


async def test_all_keys_in_use_are_asked_for_at_once() -> None:
    """However many there are, none gets old because of the others."""
    pool, clock = FakePool(), Clock()
    store = KeyStore(pool, clock=clock)  # type: ignore[arg-type]  # As above.
    keys = [pool.add() for _ in range(KEYS_A_LOOK_MAX + 100)]
    assert all(await asyncio.gather(*(store.find(key) for key in keys)))
    for second in range(1, 5):
        clock.now += 1
        assert all(store.known(key) for key in keys)
        await asyncio.gather(*store._asking.values())
        assert pool.asked == 2 + 2 * second
    await store.aclose()


async def test_while_postgres_is_away_a_key_that_was_good_stays_so() -> None:
    pool, clock = FakePool(), Clock()
    store = KeyStore(pool, clock=clock, wall_clock=clock)  # type: ignore[arg-type]  # As above.
    key, mortal, unseen = pool.add(), pool.add(expires_at=1060.0), pool.add()
    assert await store.find(key) is not None
    assert await store.find(mortal) is not None
    pool.up = False
    clock.now += 10
    assert await store.find(key) is not None
    assert await store.find(mortal) is not None
    with pytest.raises(asyncpg.CannotConnectNowError):
        await store.find(unseen)
    clock.now += 2
    assert store.known(key) is not None, "without a wait"
    await asyncio.gather(*store._asking.values(), return_exceptions=True)
    clock.now += 98
    assert await store.find(key) is not None
    assert store.known(mortal) is None, "its end needs nobody to tell"
    clock.now += 3600
    with pytest.raises(asyncpg.CannotConnectNowError):
        await store.find(key)
    pool.up = True
    assert await store.find(key) is not None
    await store.aclose()


async def test_a_key_that_was_revoked_after_an_outage_is_not_believed_once_more() -> None:
    """Nobody has used it since, so nobody has learnt that Postgres is back."""
    pool, clock = FakePool(), Clock()
    store = KeyStore(pool, clock=clock, wall_clock=clock)  # type: ignore[arg-type]  # As above.
    key = pool.add()
    assert await store.find(key) is not None
    pool.up = False
    clock.now += 10
    assert await store.find(key) is not None
    pool.up = True
    pool.rows.clear()
    clock.now += 600
    assert store.known(key) is None
    assert await store.find(key) is None
    await store.aclose()


async def test_waiting_for_its_turn_is_no_outage() -> None:
    """Made-up keys that Postgres is slow to deny: a key of ours is asked for all the same, and one
    that was revoked is not believed.
    """

    class Busy(FakePool):
        async def fetchrow(self, query: str, key_ids: list[str]) -> dict[str, Any] | None:
            await asyncio.Event().wait()
            raise AssertionError("it waits for ever")

    pool, clock = Busy(), Clock()
    pool.has_old_keys = True
    store = KeyStore(pool, clock=clock, wall_clock=clock)  # type: ignore[arg-type]  # As above.
    key, other = pool.add(), pool.add()
    assert await store.find(key) is not None
    flood = [asyncio.create_task(store.find(make_old_key().text.encode())) for _ in range(200)]
    await asyncio.sleep(0)
    refused = [task for task in flood if task.done() or await _ends(task)]
    assert len(refused) == 200 - UNKNOWN_WAITING_MAX
    assert all(isinstance(task.exception(), KeysBusy) for task in refused)
    assert await store.find(other) is not None, "ours, though it was never seen here"
    pool.rows = {key_id: row for key_id, row in pool.rows.items() if key_id in other.decode()}
    clock.now += 1.5
    assert store.known(key) is not None, "believed for three seconds, and asked for meanwhile"
    await store._asking[sha256(key).digest()]
    assert store.known(key) is None
    assert await store.find(key) is None
    clock.now += 10
    assert await store.find(other) is not None
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    await store.aclose()


@pytest.mark.parametrize("answers_at_all", [True, False])
async def test_a_slow_answer_is_no_outage_and_silence_is(
    answers_at_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds up the look at the keys, by a lock say, does not make a revoked key live on."""

    class Slow(FakePool):
        slow = False

        async def fetch(self, query: str, key_ids: list[str]) -> list[dict[str, Any]]:
            if self.slow:
                await asyncio.Event().wait()
            return await super().fetch(query, key_ids)

        async def fetchval(self, query: str) -> object:
            if self.slow and not answers_at_all:
                await asyncio.Event().wait()
            return await super().fetchval(query)

    monkeypatch.setattr(key_store, "LOOKUP_TIMEOUT_S", 0.05)
    pool, clock = Slow(), Clock()
    store = KeyStore(pool, clock=clock, wall_clock=clock)  # type: ignore[arg-type]  # As above.
    key = pool.add()
    assert await store.find(key) is not None
    pool.slow = True
    clock.now += 2
    assert store.known(key) is not None
    await asyncio.gather(*store._asking.values(), return_exceptions=True)
    clock.now += 1.5
    if answers_at_all:
        assert store.known(key) is None
        with pytest.raises(TimeoutError):
            await store.find(key)
    else:
        assert store.known(key) is not None
    await store.aclose()


@pytest.mark.parametrize("ended_by", ["revoking", "the member", "the organisation"])
async def test_the_end_of_a_key_is_told(world: World, ended_by: str) -> None:
    """By Postgres, to whoever remembers it: the clock of this process stands still, so nothing that
    it remembers ever gets old.
    """
    await world.funded("ann", 50.0)
    key, view = await make(world, user_id="ann", operations=["llm"])
    store = KeyStore(world.stores.pool, clock=Clock())
    store.listen()
    await store.listening.wait()
    assert await store.find(key.encode()) is not None
    assert store.known(key.encode()) is not None
    match ended_by:
        case "revoking":
            ended = await world.client.delete(
                f"{KEYS}/{view['key_id']}", headers=world.auth("boss")
            )
        case "the member":
            ended = await world.client.delete(
                f"{BILLING}/orgs/acme/members/ann", headers=world.auth("boss")
            )
        case _:
            ended = await world.client.put(
                f"{BILLING}/orgs/acme/suspension",
                json={"suspended": True, "reason": "unpaid"},
                headers=world.root,
            )
    assert ended.status_code == 200, ended.text

    async def is_over() -> bool:
        return store.known(key.encode()) is None

    await eventually(is_over, what="the news of the key's end")
    assert await store.find(key.encode()) is None
    await store.aclose()


async def _ends(task: asyncio.Task[Any]) -> bool:
    await asyncio.wait((task,), timeout=0.01)
    return task.done()


async def test_a_key_is_immutable_for_the_processes(world: World, app_database_url: str) -> None:
    """A process that is taken over cannot widen a key, or put another secret into it."""
    await world.funded()
    await make(world)
    conn = await asyncpg.connect(app_database_url)
    for change in (
        "operations = ARRAY['llm']",
        "org_id = 'other'",
        "digest = sha256('x')",
        "expires_at = now() + interval '9 years'",
        "user_id = 'eve'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"UPDATE taximeter.api_keys SET {change}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute("DELETE FROM taximeter.api_keys")
    await conn.close()


async def test_a_sidecar_checks_what_a_key_is_for(world: World, sidecar_database_url: str) -> None:
    await world.funded("ann", 50.0)
    for_all, _ = await make(world)
    for_ann, _ = await make(world, name="of ann", user_id="ann", operations=["charge", "balance"])
    meter = await world.app.state.services.meters.get()
    async with asyncpg.create_pool(sidecar_database_url, min_size=0, max_size=2) as pool:
        store = KeyStore(pool)
        async with (
            served(create_sidecar(meter, keys=Keys(None, store))) as url,
            calling(url) as gateway,
        ):

            async def post(key: str, op: str, **fields: Any) -> httpx.Response:
                body = {"org_id": "acme", "user_id": "ann", "amount_millicredits": 1, **fields}
                return await gateway.client.post(f"/v1/{op}", json=body, headers=bearer(key))

            assert (await post(for_all, "charge")).status_code == 200
            assert (await post(for_ann, "charge")).status_code == 200
            denied = (
                (await post(for_ann, "reserve"), "op"),
                (await post(for_ann, "charge", user_id="bob"), "user_id"),
                (await post(for_all, "charge", org_id="other"), "org_id"),
            )
            for response, field in denied:
                status, code, details = problem(response)
                assert (status, code, details) == (403, "PERMISSION_DENIED", {"field": field})
            one = {"org_id": "acme", "user_id": "ann", "amount_millicredits": 1}
            batch = await gateway.client.post(
                "/v1/batch",
                json={"operations": [{"op": "charge", **one}, {"op": "reserve", **one}]},
                headers=bearer(for_ann),
            )
            assert [result["status"] for result in batch.json()["results"]] == [200, 403]
            for key, path, status in (
                (for_ann, "/v1/balance?org_id=acme&user_id=ann", 200),
                (for_ann, "/v1/balance?org_id=acme&user_id=bob", 403),
                (for_ann, "/v1/operations?org_id=acme&request_id=x", 403),
                (for_all, "/v1/operations?org_id=acme&request_id=x", 404),
                (for_all, "/v1/operations?org_id=other&request_id=x", 403),
                (make_old_key().text, "/v1/balance?org_id=acme&user_id=ann", 401),
            ):
                response = await gateway.client.get(path, headers=bearer(key))
                assert response.status_code == status, path
            keyless = await gateway.client.post("/v1/charge", content=b"{}", headers=JSON)
            assert keyless.status_code == 401
        await store.aclose()


OWN = {"name": "laptop", "operations": ["llm", "balance"]}


async def test_a_member_makes_keys_for_themselves_and_no_wider_ones(world: World) -> None:
    await world.funded()
    await world.add_member("bob")
    key, view = await make(world, "ann", **OWN)
    assert (view["user_id"], view["created_by"]) == ("ann", "ann")
    assert (await chat(world, key)).status_code == 200
    for change in (
        {"user_id": "bob"},
        {"operations": ["charge"]},
        {"operations": ["llm", "any_hold"]},
    ):
        refused = await world.client.post(KEYS, json={**OWN, **change}, headers=world.auth("ann"))
        assert refused.status_code == 403, change
        assert refused.json()["error"]["details"]["field"] in change
    # Everybody sees and ends what is theirs.
    _, of_admin = await make(world, user_id="ann", operations=["llm"])
    listed = (await world.client.get(KEYS, headers=world.auth("ann"))).json()
    assert [one["key_id"] for one in listed["keys"]] == [of_admin["key_id"], view["key_id"]]
    assert (await world.client.get(KEYS, headers=world.auth("bob"))).json()["total"] == 0
    for user, key_id, status in (
        ("bob", view["key_id"], 404),
        ("ann", of_admin["key_id"], 403),
        ("ann", view["key_id"], 200),
    ):
        ended = await world.client.delete(f"{KEYS}/{key_id}", headers=world.auth(user))
        assert ended.status_code == status, (user, key_id)
    audited = await world.stores.pool.fetch(
        "SELECT actor, action FROM taximeter.audit_log WHERE target = $1 ORDER BY id",
        view["key_id"],
    )
    made_and_ended = [("ann", "org.key.created"), ("ann", "org.key.revoked")]
    assert [tuple(row) for row in audited] == made_and_ended


async def test_keys_of_members_take_no_place_and_no_name_of_others(world: World) -> None:
    await world.funded()
    for number in range(5):
        await make(world, "ann", **{**OWN, "name": f"mine {number // 2}"})
    sixth = await world.client.post(KEYS, json=OWN, headers=world.auth("ann"))
    assert sixth.status_code == 409
    assert "at most 5" in sixth.json()["error"]["message"]
    # Two keys are named "mine 0" already, by a member: the organisation has its own two.
    for _ in range(2):
        await make(world, name="mine 0")
    third = await world.client.post(
        KEYS, json={"name": "mine 0", "operations": ["llm"]}, headers=world.auth("boss")
    )
    assert third.status_code == 409
