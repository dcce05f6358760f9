"""Keys of the installation: made and revoked by its operator, narrow, shown once, gone at once."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from support.old_keys import SEAL
from support.world import BILLING, CHAT, World

from taximeter.api.access.key_text import SYSTEM_PREFIX, make_key, plain_digits, sealed_digits
from taximeter.api.access.system_keys import RIGHTS, may
from taximeter.api.app import create_app
from taximeter.api.commands import group
from taximeter.api.settings.api import ApiSettings

SUBSCRIBE = {
    "org_id": "acme",
    "plan_code": "professional",
    "org_name": "Acme Inc.",
    "billing_email": "billing@acme.example",
    "user_id": "boss",
}


async def command(database_url: str, *arguments: str) -> Result:
    where = {"TAXIMETER_MIGRATE_DATABASE_URL": database_url}
    return await asyncio.to_thread(
        CliRunner().invoke, group, ["admin", "key", *arguments], env=where
    )


async def made(database_url: str, *rights: str) -> str:
    options = [part for right in rights for part in ("--right", right)]
    result = await command(database_url, "create", "automation", *options)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


async def status(world: World, key: str, method: str, path: str, body: Any = None) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    response = await world.client.request(method, path, json=body, headers=headers)
    return response.status_code


async def test_a_key_does_what_it_is_for_and_is_gone_at_once(
    world: World, database_url: str, app_database_url: str
) -> None:
    everything = await made(database_url, "admin")
    reading = await made(database_url, "read")
    crediting = await made(database_url, "credits")
    subscribe, credits = f"{BILLING}/subscriptions", f"{BILLING}/credits/acme"
    add = {"credits": 5.0, "purchase_amount": 1.0}
    for key, expected in (
        (reading, (403, 403, 404)),
        (crediting, (403, 404, 404)),
        (everything, (200, 200, 200)),
        (reading, (403, 403, 200)),
        (crediting, (403, 200, 200)),
    ):
        found = (
            await status(world, key, "POST", subscribe, SUBSCRIBE),
            await status(world, key, "POST", f"{credits}/add", add),
            await status(world, key, "GET", credits),
        )
        assert found == expected
    # It is nobody's session, and no key of a gateway.
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    assert await status(world, everything, "POST", CHAT, chat) == 401
    cookie = {"Cookie": f"session_token={everything}"}
    assert (await world.client.get(credits, headers=cookie)).status_code == 401
    # What it did is written down as its own.
    key_id = everything.split("_")[1]
    actors = await world.stores.pool.fetch(
        "SELECT DISTINCT actor FROM taximeter.audit_log WHERE action = 'org.subscription.created'"
    )
    assert [row["actor"] for row in actors] == [f"taximeter:key:{key_id}"]
    listed = (await command(database_url, "list")).stdout
    assert re.search(rf"^{key_id}  automation .*  admin  good until .*last used 2", listed, re.M)
    secrets = [key.split("_")[2] for key in (everything, reading, crediting)]
    dumped = await world.stores.pool.fetch(
        "SELECT to_jsonb(k)::text AS row FROM taximeter.system_keys AS k"
        " UNION ALL SELECT to_jsonb(a)::text FROM taximeter.audit_log AS a"
    )
    assert not any(secret in row["row"] for row in dumped for secret in secrets)
    assert not any(secret in listed for secret in secrets)
    # One made up, one with another secret, and one with the digits of old: all the same.
    seal = await world.app.state.services.keys.seal()
    unchecked = f"{SYSTEM_PREFIX}{key_id}_{'0' * 43}"
    for digits in (sealed_digits(seal, unchecked.encode()), plain_digits(unchecked.encode())):
        assert await status(world, unchecked + digits, "GET", credits) == 401
    assert await status(world, make_key(SEAL, SYSTEM_PREFIX).text, "GET", credits) == 401

    revoked = await command(database_url, "revoke", key_id)
    assert (revoked.exit_code, "is revoked" in revoked.stdout) == (0, True)
    assert await status(world, everything, "GET", credits) == 401
    again = await command(database_url, "revoke", key_id)
    assert (again.exit_code, "already" in again.stdout) == (0, True)
    assert (await command(database_url, "revoke", "nosuchkey")).exit_code == 1
    assert key_id not in (await command(database_url, "list")).stdout
    assert "revoked" in (await command(database_url, "list", "--all")).stdout
    actions = await world.stores.pool.fetch(
        "SELECT actor, action FROM taximeter.audit_log WHERE action LIKE 'system.key.%' ORDER BY id"
    )
    assert [row["action"] for row in actions] == [
        *["system.key.created"] * 3,
        "system.key.revoked",
    ]
    assert all(row["actor"].startswith("operator") for row in actions)

    conn = await asyncpg.connect(app_database_url)
    for statement in (
        "UPDATE taximeter.system_keys SET rights = ARRAY['admin']",
        "UPDATE taximeter.system_keys SET revoked_at = NULL",
        "DELETE FROM taximeter.system_keys",
        "INSERT INTO taximeter.system_keys SELECT * FROM taximeter.system_keys",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    await conn.close()
    with pytest.raises(asyncpg.RestrictViolationError, match="stays so"):
        await world.stores.pool.execute(
            "UPDATE taximeter.system_keys SET revoked_at = NULL WHERE revoked_at IS NOT NULL"
        )
    await world.stores.pool.execute(
        "UPDATE taximeter.system_keys SET created_at = now() - interval '2 days',"
        " expires_at = now() - interval '1 day'"
    )
    assert await status(world, reading, "GET", credits) == 401


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "x"), "--right"),
        (("create", "x", "--right", "everything"), "--right"),
        (("create", "", "--right", "read"), "NAME"),
        (("create", "a\nb", "--right", "read"), "NAME"),
        (("create", "x", "--right", "read", "--days", "367"), "--days"),
        (("create", "x", "--right", "read", "--days", "0"), "--days"),
    ],
)
async def test_what_cannot_be_asked_for(
    database_url: str, arguments: tuple[str, ...], said: str
) -> None:
    result = await command(database_url, *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_each_right_is_for_a_part_of_the_api(tmp_path: Path) -> None:
    paths = create_app(ApiSettings(dev_mode=True, data_dir=tmp_path)).openapi()["paths"]
    parts = {tag for path in paths.values() for route in path.values() for tag in route["tags"]}
    assert RIGHTS.keys() - {"admin", "read"} <= parts
    assert may(frozenset({"read"}), "GET", frozenset({"audit"}))
    assert not may(frozenset({"read"}), "POST", frozenset({"audit"}))
    assert not may(frozenset({"keys"}), "GET", frozenset({"audit"}))


async def test_no_user_is_called_as_our_programs_are(world: World) -> None:
    """Else the audit log would name a key, or the operator, for what a user did."""
    for name in ("taximeter:key:abcdefghijkl", "operator:root"):
        answer = await world.client.get("/api/v1/auth/user", headers=world.auth(name))
        assert answer.status_code == 401
