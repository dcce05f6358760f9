"""Usage by API key and by tag, from requests through the books to the answer."""

from __future__ import annotations

from typing import Any

from support.world import BILLING, CHAT, World

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
        # It is added up for all alone, so nobody is shown a part that is not so.
        for part in ("user_id=ann", "service_type=llm_inference"):
            said = await get(world, f"{USAGE}?group_by={by}&{part}", status=400)
            assert f"usage by {by}" in said["error"]["message"]
        await get(world, f"{USAGE}?group_by={by}", "ann", status=400)
        await get(world, f"{USAGE}/series?by={by}", "ann", status=400)
    await world.prove()


async def test_another_organisation_finds_nothing_of_it(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.subscribe("other", "their-boss")).status_code == 200
    report = await get(world, f"{BILLING}/credits/other/usage?group_by=key", "their-boss")
    assert report["groups"] == []
    await get(world, f"{USAGE}?group_by=key", "their-boss", status=404)
