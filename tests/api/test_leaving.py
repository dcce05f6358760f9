"""Who is removed leaves nothing that acts for them, no key and no invitation, and it is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner
from support.world import BILLING, CHAT, World

from taximeter.api.access.dev_tokens import DEV_ISSUER
from taximeter.api.commands import group

ORG = f"{BILLING}/orgs/acme"


async def call(
    world: World, method: str, path: str, by: dict[str, str], body: Any = None, status: int = 200
) -> Any:
    response = await world.client.request(method, f"{ORG}{path}", json=body, headers=by)
    assert response.status_code == status, response.text
    return response.json()


async def key_of(world: World, by: str, name: str, user_id: str | None = None) -> str:
    body = {"name": name, "operations": ["llm"], "user_id": user_id}
    return (await call(world, "POST", "/keys", world.auth(by), body))["key"]


async def spends(world: World, key: str) -> bool:
    """Whether the key still pays for a request of ann. What is remembered of it is asked anew."""
    for read in world.app.state.services.keys._good.values():
        read.read_at = float("-inf")
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Authorization": f"Bearer {key}", "X-User-Id": "ann"}
    response = await world.client.post(CHAT, json=body, headers=headers)
    assert response.status_code in (200, 401), response.text
    return response.status_code == 200


def names(keys: list[dict[str, Any]]) -> list[str]:
    return [one["name"] for one in keys]


async def audited(world: World, action: str) -> list[tuple[str, str | None]]:
    rows = await world.stores.pool.fetch(
        "SELECT actor, after ->> 'ended_with' AS with FROM taximeter.audit_log"
        " WHERE action = $1 ORDER BY id",
        action,
    )
    return [(row["actor"], row["with"]) for row in rows]


@pytest.fixture
async def eve(world: World) -> World:
    """ann has credits, and eve is an admin beside boss, who has invited dan."""
    await world.funded("ann", 50.0)
    await world.add_member("eve", role="admin")
    await call(world, "POST", "/members", world.auth("eve"), {"user_id": "dan"})
    return world


@pytest.mark.parametrize("how", ["removed", "demoted", "leaves"])
async def test_the_keys_of_an_admin_end_with_the_role(eve: World, how: str) -> None:
    world = eve
    made = await key_of(world, "eve", "gateway")
    by_boss = await key_of(world, "boss", "another")
    of_eve = await key_of(world, "boss", "eve's own", "eve")
    assert await spends(world, made)
    boss = world.auth("boss")
    match how:
        case "removed":
            answer = await call(world, "DELETE", "/members/eve", boss)
        case "demoted":
            answer = await call(world, "POST", "/members", boss, {"user_id": "eve"})
        case _:
            own = world.auth("eve")
            await call(world, "DELETE", "/members/eve?keep_keys=true", own, status=403)
            keeping = {"user_id": "eve", "keep_keys": True}
            await call(world, "POST", "/members", own, keeping, status=403)
            answer = await call(world, "DELETE", "/members/eve", own)
    assert not await spends(world, made), "nobody pays for what a removed admin's key asks for"
    assert await spends(world, by_boss)
    ended = ["gateway"] if how == "demoted" else ["eve's own", "gateway"]
    assert (names(answer["keys_ended"]), answer["keys_kept"]) == (ended, [])
    assert answer["invitations_withdrawn"] == 1
    actor = "eve" if how == "leaves" else "boss"
    assert await audited(world, "org.key.revoked") == [(actor, "eve")] * len(ended)
    assert await audited(world, "org.invitation.withdrawn") == [(actor, "eve")]
    dan = world.auth("dan")
    accept = f"{BILLING}/invitations/acme/accept"
    assert (await world.client.post(accept, headers=dan)).status_code == 404
    # Who comes back finds none of it.
    await call(world, "POST", "/members", world.root, {"user_id": "eve", "role": "admin"})
    assert not await spends(world, made)
    found = await world.stores.pool.fetchval(
        "SELECT revoked_at IS NOT NULL FROM taximeter.api_keys WHERE name = $1", "eve's own"
    )
    assert found == (how != "demoted")
    assert of_eve
    await world.prove()


async def test_another_admin_may_keep_what_gateways_hang_on(eve: World) -> None:
    world = eve
    made = await key_of(world, "eve", "gateway")
    await key_of(world, "eve", "eve's own", "eve")
    answer = await call(world, "DELETE", "/members/eve?keep_keys=true", world.auth("boss"))
    assert names(answer["keys_kept"]) == ["gateway"]
    assert names(answer["keys_ended"]) == ["eve's own"]
    assert await spends(world, made)
    assert await audited(world, "org.key.kept") == [("boss", None)]
    listed = await call(world, "GET", "/keys", world.auth("boss"))
    assert [(one["name"], one["creator_is_admin"]) for one in listed["keys"]] == [
        ("gateway", False)
    ]


async def test_a_suspension_is_a_pause_and_a_deletion_the_end(eve: World) -> None:
    world = eve
    made = await key_of(world, "eve", "gateway")
    suspend = {"suspended": True, "reason": "unpaid"}
    answer = await call(world, "PUT", "/suspension", world.root, suspend)
    assert (answer["state"], answer["keys_stopped"]) == ("suspended", 1)
    assert not await spends(world, made)
    lift = {"suspended": False, "reason": "paid"}
    answer = await call(world, "PUT", "/suspension", world.root, lift)
    assert (answer["state"], answer["keys_stopped"]) == ("active", 0)
    world.app.state.services.keys._bad.clear()  # What was refused is remembered for seconds.
    assert await spends(world, made)
    delete = {"reason": "asked for", "confirm_org_id": "acme"}
    answer = await call(world, "POST", "/delete", world.root, delete)
    assert names(answer["keys_ended"]) == ["gateway"]
    assert not await spends(world, made)
    assert await audited(world, "org.key.revoked") == [("root", "acme")]


async def test_the_keys_of_a_removed_system_admin_end(eve: World, database_url: str) -> None:
    world = eve
    where = {"TAXIMETER_MIGRATE_DATABASE_URL": database_url}
    made = (await call(world, "POST", "/keys", world.root, {"name": "r", "operations": ["llm"]}))[
        "key"
    ]
    by_boss = await key_of(world, "boss", "another")
    person = ("--subject", "root", "--issuer", DEV_ISSUER)
    for command, keys in (("bootstrap", None), ("remove", "ended with it: 1")):
        result = await asyncio.to_thread(
            CliRunner().invoke, group, ["admin", command, *person], env=where
        )
        assert result.exit_code == 0, result.output
        assert keys is None or keys in result.output
    assert not await spends(world, made)
    assert await spends(world, by_boss)
    [(actor, ended_with)] = await audited(world, "org.key.revoked")
    assert (actor.split(":")[0], ended_with) == ("operator", "root")
