"""Usage by API key and by tag, from requests through the books to the answer."""

from __future__ import annotations

from typing import Any

import pytest
from support.world import BILLING, CHAT, World

from taximeter.api.billing import usage_reports

KEYS = f"{BILLING}/orgs/acme/keys"
USAGE = f"{BILLING}/credits/acme/usage"


async def get(world: World, path: str, by: str = "boss", status: int = 200) -> Any:
    response = await world.client.get(path, headers=world.auth(by))
    assert response.status_code == status, response.text
    return response.json()


async def test_who_asks_with_a_key_or_a_tag_is_found_by_it(world: World) -> None:
    await world.funded("ann", 20.0)
    body = {"name": "gateway", "operations": ["llm"], "user_id": "ann"}
    made = (await world.client.post(KEYS, json=body, headers=world.auth("boss"))).json()
    key_id = made["api_key"]["key_id"]
    by_key = {"Authorization": f"Bearer {made['key']}"}
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    for headers, tag in (
        (by_key, {"tag": "nightly"}),
        (by_key, {}),
        (world.auth("ann"), {"tag": "nightly"}),
        (world.auth("ann"), {}),
    ):
        done = await world.client.post(CHAT, json={**asked, **tag}, headers=headers)
        assert done.status_code == 200, done.text
    refused = await world.client.post(CHAT, json={**asked, "tag": "x" * 65}, headers=by_key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "VALIDATION_ERROR")
    await world.settle()
    whole = (await get(world, USAGE))["total_credits_used"]
    for by, label, name in (("key", key_id, "gateway"), ("tag", "nightly", None)):
        report = await get(world, f"{USAGE}?group_by={by}")
        named, without = report["groups"]
        assert (named["key"], named["key_name"], named["requests"]) == (label, name, 2)
        assert (without["key"], without["requests"]) == ("", 2)
        assert round(named["credits_used"] + without["credits_used"], 3) == whole
        series = (await get(world, f"{USAGE}/series?by={by}"))["series"]
        assert [(one["key"], one["key_name"], one["requests"]) for one in series] == [
            (label, name, 2),
            (None, None, 2),
        ]
        assert round(sum(one["credits_used"] for one in series), 3) == whole
        # One service has no such figures, so nobody is shown a part that is not so.
        said = await get(world, f"{USAGE}?group_by={by}&service_type=llm_inference", status=400)
        assert f"usage by {by}" in said["error"]["message"]
    await world.prove()


async def test_another_organisation_finds_nothing_of_it(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    report = await get(world, f"{BILLING}/credits/other/usage?group_by=key", "their-boss")
    assert report["groups"] == []
    await get(world, f"{USAGE}?group_by=key", "their-boss", status=404)


async def key_of(world: World, name: str, user_id: str | None) -> tuple[str, dict[str, str]]:
    body = {"name": name, "operations": ["llm"]} | ({"user_id": user_id} if user_id else {})
    made = (await world.client.post(KEYS, json=body, headers=world.auth("boss"))).json()
    return made["api_key"]["key_id"], {"Authorization": f"Bearer {made['key']}"}


async def ask(world: World, headers: dict[str, str], **more: str) -> None:
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], **more}
    done = await world.client.post(CHAT, json=asked, headers=headers)
    assert done.status_code == 200, done.text


async def groups(world: World, path: str, by: str) -> list[tuple[str | None, str | None, int]]:
    """Key, name of the key and requests of a report and of its picture, which are the same and add
    up to the whole."""
    kind, _, rest = path.partition("&")
    report = await get(world, f"{USAGE}?group_by={kind}&{rest}", by)
    picture = await get(world, f"{USAGE}/series?by={kind}&{rest}", by)
    found = [(one["key"], one["key_name"], one["requests"]) for one in report["groups"]]
    shown = [(one["key"] or "", one["key_name"], one["requests"]) for one in picture["series"]]
    assert sorted(found, key=str) == sorted(shown, key=str)
    for parts, whole in ((report["groups"], report), (picture["series"], picture)):
        used = sum(one["credits_used"] for one in parts)
        assert round(used, 3) == whole["total_credits_used"] == report["total_credits_used"]
        assert sum(one["requests"] for one in parts) == report["total_requests"]
    return found


async def test_members_see_their_own_usage_by_key_and_tag_and_no_others(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    assert (await world.allocate("bob", 20.0)).status_code == 200
    of_ann, ann_key = await key_of(world, "ann's", "ann")
    of_bob, bob_key = await key_of(world, "bob's", "bob")
    of_all, all_key = await key_of(world, "gateway of all", None)
    await ask(world, ann_key, tag="ann-tag")
    await ask(world, world.auth("ann"))
    await ask(world, bob_key, tag="bob-tag")
    await ask(world, all_key | {"X-User-Id": "ann"})
    await world.settle()

    # The key of all is none of hers: what it used for her is without a key to her.
    assert await groups(world, "key", "ann") == [(of_ann, "ann's", 1), ("", None, 2)]
    assert await groups(world, "tag", "ann") == [("ann-tag", None, 1), ("", None, 2)]
    assert await groups(world, "key", "bob") == [(of_bob, "bob's", 1)]
    assert await groups(world, "tag", "bob") == [("bob-tag", None, 1)]
    # Whose keys all of them are sees which it was.
    seen = await groups(world, "key&user_id=ann", "boss")
    assert {key for key, *_ in seen} == {of_ann, of_all, ""}
    assert await groups(world, "tag&user_id=bob", "boss") == [("bob-tag", None, 1)]
    for asked in ("group_by=key", "group_by=tag"):
        await get(world, f"{USAGE}?{asked}&user_id=bob", "ann", status=403)
    for asked in ("by=key", "by=tag"):
        await get(world, f"{USAGE}/series?{asked}&user_id=bob", "ann", status=403)
    await world.prove()


async def test_more_than_is_read_is_refused_and_never_a_part_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.funded("ann", 20.0)
    _, key = await key_of(world, "laptop", "ann")
    for _ in range(3):
        await ask(world, key, tag="t")
    await world.settle()
    monkeypatch.setattr(usage_reports, "OWN_CHARGES_MAX", 3)
    assert [requests for *_, requests in await groups(world, "tag", "ann")] == [3]
    monkeypatch.setattr(usage_reports, "OWN_CHARGES_MAX", 2)
    for path, field in ((f"{USAGE}?group_by=tag", "group_by"), (f"{USAGE}/series?by=key", "by")):
        said = await get(world, path, "ann", status=400)
        assert said["error"]["message"].startswith(f"{field}: usage of one user by")


async def test_what_is_archived_is_refused_and_never_left_out(world: World) -> None:
    await world.funded("ann", 20.0)
    for tag in ("kept", "gone"):
        await ask(world, world.auth("ann"), tag=tag)
    await world.settle()
    assert len(await groups(world, "tag", "ann")) == 2
    # As archiving leaves it: the rows are gone, and the rollups still have them.
    async with world.stores.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = replica")
        gone = await conn.execute(
            "DELETE FROM credit_usage_attribution WHERE request_metadata ->> 'tag' = 'gone'"
        )
    assert gone == "DELETE 1"
    for path in (f"{USAGE}?group_by=tag", f"{USAGE}/series?by=tag"):
        said = await get(world, path, "ann", status=400)
        assert "archived" in said["error"]["message"]
    assert (await get(world, USAGE, "ann"))["total_requests"] == 2
