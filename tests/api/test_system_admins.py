"""The first system admin: made by the operator's command, found by the API, bound to one user."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner, Result
from support.forked import run_forked
from support.world import World

from taximeter.api.access.dev_tokens import DEV_ISSUER, load_dev_key
from taximeter.api.access.sessions import Principal
from taximeter.api.commands import group
from taximeter.api.sql import ADMINS

ME = "/api/v1/auth/user"
ISSUER = "https://id.example/realms/main"


async def admin(database_url: str, *arguments: str, **settings: str) -> Result:
    """Run `taximeter admin` with no settings but these."""
    environment = {
        "TAXIMETER_MIGRATE_DATABASE_URL": database_url,
        "TAXIMETER_DATABASE_URL": None,
        "TAXIMETER_OIDC_ISSUER": None,
        "TAXIMETER_DEV_MODE": "1",
        **settings,
    }
    return await asyncio.to_thread(
        CliRunner(env=environment).invoke, group, ["admin", *arguments], prog_name="taximeter"
    )


async def me(world: World, user: str, email: str | None = None) -> dict[str, Any]:
    token = load_dev_key(world.settings.data_dir).mint(user, ttl_s=600, email=email)
    response = await world.client.get(ME, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def forget(world: World) -> None:
    """As two seconds would."""
    world.app.state.services.admins._read_at = float("-inf")


async def audit(pool: asyncpg.Pool[asyncpg.Record]) -> list[tuple[str, str, str]]:
    rows = await pool.fetch(
        "SELECT action, target, actor FROM taximeter.audit_log WHERE org_id IS NULL ORDER BY id"
    )
    return [(row["action"], row["target"], row["actor"].partition(":")[0]) for row in rows]


async def test_from_nobody_to_the_first_subscription(
    world: World, database_url: str, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    body = {
        "org_id": "acme",
        "org_name": "Acme",
        "plan_code": "professional",
        "billing_email": "billing@acme.example",
        "user_id": "ann",
    }

    async def subscribe() -> httpx.Response:
        return await world.client.post(
            "/api/v1/org-billing/subscriptions", json=body, headers=world.auth("root")
        )

    assert (await me(world, "root"))["is_system_admin"] is False
    refused = await subscribe()
    assert refused.status_code in (400, 403), refused.text
    made = await admin(database_url, "bootstrap", "--subject", "root")
    assert (made.exit_code, made.output) == (
        0,
        f"root is a system admin now, by sessions of {DEV_ISSUER}\n",
    )
    forget(world)
    assert (await me(world, "root"))["is_system_admin"] is True
    assert (await subscribe()).status_code == 200
    # Nobody else became one with it.
    assert (await me(world, "ann"))["is_system_admin"] is False

    again = await admin(database_url, "bootstrap", "--subject", "root")
    assert (again.exit_code, again.output) == (0, "root is listed already: nothing was changed\n")
    second = await admin(database_url, "bootstrap", "--subject", "eve")
    assert second.exit_code == 1
    assert f"there is a system admin already: root of {DEV_ISSUER}" in second.output
    forget(world)
    assert (await me(world, "eve"))["is_system_admin"] is False

    forced = await admin(
        database_url, "bootstrap", "--subject", "bob", "--force", "--reason", "ann is on leave"
    )
    assert forced.exit_code == 0, forced.output
    removed = await admin(database_url, "remove", "--subject", "root", "--reason", "left")
    assert (removed.exit_code, removed.output) == (
        0,
        "root is no system admin by this list any more\n",
    )
    forget(world)
    assert (await me(world, "bob"))["is_system_admin"] is True
    assert (await me(world, "root"))["is_system_admin"] is False
    shown = (await admin(database_url, "list")).output.splitlines()
    assert len(shown) == 2
    assert "removed" in shown[0]
    assert shown[1].startswith(f"bob of {DEV_ISSUER}  is a system admin")
    assert [one for one in await audit(pool) if one[0].startswith("system.")] == [
        ("system.admin.added", "root", "operator"),
        ("system.admin.added", "bob", "operator"),
        ("system.admin.removed", "root", "operator"),
    ]


async def test_an_address_is_the_first_verified_users_for_good(
    world: World, database_url: str, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    made = await admin(database_url, "bootstrap", "--email", "Ann@Example.com")
    assert made.exit_code == 0
    assert made.output.startswith("ann@example.com becomes a system admin with their first session")
    assert "waits for the first session" in (await admin(database_url, "list")).output
    assert (await me(world, "mallory"))["is_system_admin"] is False
    assert (await me(world, "mallory", "other@example.com"))["is_system_admin"] is False
    # Two sessions of two users who both show it, at the same moment: one of them is it.
    both = await asyncio.gather(
        me(world, "ann", "ann@example.com"), me(world, "ann-2", "ANN@example.com")
    )
    [first] = [one["user_id"] for one in both if one["is_system_admin"]]
    [other] = {"ann", "ann-2"} - {first}
    forget(world)
    assert (await me(world, first))["is_system_admin"] is True, "by the id from then on"
    assert (await me(world, other, "ann@example.com"))["is_system_admin"] is False
    again = await admin(database_url, "bootstrap", "--email", "ann@example.com")
    assert "listed already" in again.output
    assert f"{first} (ann@example.com)" in (await admin(database_url, "list")).output
    assert ("system.admin.claimed", first, first) in await audit(pool)
    await admin(database_url, "remove", "--email", "ann@example.com")
    forget(world)
    assert (await me(world, first, "ann@example.com"))["is_system_admin"] is False


async def test_an_address_that_nobody_has_verified_is_nobodys(
    world: World, database_url: str
) -> None:
    await admin(database_url, "bootstrap", "--email", "ann@example.com")
    admins = world.app.state.services.admins
    eve = Principal(
        user_id="eve",
        email="ann@example.com",
        name=None,
        is_system_admin=False,
        expires_at=0.0,
        email_verified=False,
    )
    assert not (await admins.of(eve)).is_system_admin
    ann = dataclasses.replace(eve, user_id="ann", email_verified=True)
    assert (await admins.of(ann)).is_system_admin, "and it is still to be had"


async def test_sessions_of_another_issuer_are_not_meant(world: World, database_url: str) -> None:
    made = await admin(database_url, "bootstrap", "--subject", "root", "--issuer", ISSUER)
    assert made.exit_code == 0
    assert (await me(world, "root"))["is_system_admin"] is False


async def test_the_api_cannot_make_one(
    database_url: str, app_database_url: str, settler_database_url: str
) -> None:
    for url in (app_database_url, settler_database_url):
        refused = await admin(url, "bootstrap", "--subject", "root")
        assert refused.exit_code == 1
        assert refused.output.startswith("Error: only the owner of the database may")
        assert refused.output.count("\n") == 1
    conn = await asyncpg.connect(app_database_url)
    try:
        assert await conn.fetchval(ADMINS["claim"], ISSUER, "eve", "eve@example.com") is False
        for statement in (
            "INSERT INTO taximeter.system_admins (issuer, user_id, added_by) VALUES ('i', 'e', '')",
            "UPDATE taximeter.system_admins SET user_id = 'eve'",
            "DELETE FROM taximeter.system_admins",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()


async def test_two_operators_at_once_make_one(database_url: str) -> None:
    results = await asyncio.gather(
        *(_bootstrap_in_a_process(database_url, user) for user in ("ann", "bob"))
    )
    assert sorted(code for code, _ in results) == [0, 1], results


async def _bootstrap_in_a_process(database_url: str, user: str) -> tuple[int, str]:
    environment = {
        **os.environ,
        "TAXIMETER_MIGRATE_DATABASE_URL": database_url,
        "TAXIMETER_OIDC_ISSUER": ISSUER,
    }
    arguments = ("admin", "bootstrap", "--subject", user)
    return await asyncio.to_thread(run_forked, *arguments, environment=environment)


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["bootstrap"], {}, "either --subject or --email"),
        (["bootstrap", "--subject", "a", "--email", "a@b"], {}, "either --subject or --email"),
        (["bootstrap", "--email", "ann"], {}, "such as ann@example.com"),
        (["bootstrap", "--subject", ""], {}, "--subject"),
        (["bootstrap", "--subject", "a", "--force"], {}, "--force needs --reason"),
        (["bootstrap", "--subject", "a", "--reason", " "], {}, "1 to 1000 characters"),
        (["bootstrap", "--subject", "a"], {"TAXIMETER_DEV_MODE": ""}, "TAXIMETER_OIDC_ISSUER"),
        (
            ["bootstrap", "--subject", "a"],
            {"TAXIMETER_OIDC_ISSUER": "http://id.example"},
            "must start with https://",
        ),
        (["remove", "--subject", "nobody"], {}, "nobody of taximeter-dev is not listed"),
    ],
)
async def test_what_is_wrong_is_said_and_nothing_is_changed(
    database_url: str,
    pool: asyncpg.Pool[asyncpg.Record],
    arguments: list[str],
    settings: dict[str, str],
    said: str,
) -> None:
    result = await admin(database_url, *arguments, **settings)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert await pool.fetchval("SELECT count(*) FROM taximeter.system_admins") == 0


async def test_a_database_without_tables_or_none_at_all(empty_database_url: str) -> None:
    lacking = await admin(empty_database_url, "bootstrap", "--subject", "a")
    assert "run `taximeter migrate`" in lacking.output
    away = await admin("postgresql://x:secret@127.0.0.1:1/x", "bootstrap", "--subject", "a")
    assert away.exit_code == 1
    assert away.output.count("\n") == 1
    assert "secret" not in away.output
