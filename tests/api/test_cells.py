"""An organisation that lives in another cell is answered with where, on every surface; and nobody
who lives here waits for the directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner
from support.patience import PATIENT_S
from support.servers import as_login
from support.world import BILLING, World, serving

from taximeter.api.commands import group
from taximeter.meter import CellUnknown, Meter, WrongCell
from taximeter.meter.sidecar import create_sidecar
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.directory import Directory

API_OF_B, SIDECAR_OF_B = "https://b.example.com", "https://sidecar.b.example.com"


@pytest.fixture
def directory_url(database_url: str) -> str:
    """This cell's own database has the directory."""
    return as_login(database_url, "taximeter_app")


@pytest.fixture
def api_options(directory_url: str) -> dict[str, Any]:
    return {"cell": "a", "directory_url": directory_url}


@asynccontextmanager
async def directory_of(url: str, **options: Any) -> AsyncIterator[tuple[Directory, asyncpg.Pool]]:
    pool = make_pool(
        *(url,),
        size_max=1,
        command_timeout_s=PATIENT_S,
        wait_s=PATIENT_S,
        accept_loss=True,
        server_settings={},
    )
    async with pool:
        yield Directory(pool, "a", **options), pool


async def two_cells(pool: asyncpg.Pool) -> None:
    await pool.execute(
        "INSERT INTO taximeter.cells VALUES ('a', 'https://a', 'https://s.a'), ('b', $1, $2)",
        *(API_OF_B, SIDECAR_OF_B),
    )
    await pool.execute(
        "INSERT INTO taximeter.cell_organizations (org_id, slug, cell) VALUES ('far', 'far', 'b')"
    )


async def test_every_surface_says_where_an_organisation_lives(
    world: World, directory_url: str, redis_url: str, key_prefix: str
) -> None:
    await two_cells(world.stores.pool)
    await world.funded()
    home = await world.stores.pool.fetchval(
        "SELECT cell FROM taximeter.cell_organizations WHERE org_id = 'acme'"
    )
    assert home == "a", "a new organisation is written down"
    of_api = {"cell": "b", "address": API_OF_B}

    def says(response: httpx.Response, details: dict[str, str]) -> None:
        assert response.status_code == 421, response.text
        error = response.json()["error"]
        assert error["code"] == "WRONG_CELL"
        assert error["details"] == details
        assert "retry-after" not in response.headers

    says(await world.client.get(f"{BILLING}/orgs/far", headers=world.auth("ann")), of_api)
    says(await world.subscribe("far"), of_api)
    refused = await world.chat(headers={"X-Org-Id": "far"})
    says(refused, of_api)
    assert refused.headers["x-should-retry"] == "false"
    nowhere = await world.client.get(f"{BILLING}/orgs/nowhere", headers=world.auth("ann"))
    assert nowhere.status_code == 404

    async with (
        directory_of(directory_url) as (directory, _),
        await Meter.connect(
            redis_url,
            key_prefix=key_prefix,
            loader=account_loader(world.stores.pool),
            elsewhere=directory.check,
        ) as meter,
        serving(create_sidecar(meter)) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENT_S, trust_env=False) as client,
    ):
        body = {"org_id": "far", "user_id": "ann", "amount_millicredits": 1}
        of_sidecar = {"org_id": "far", "cell": "b", "address": SIDECAR_OF_B}
        says(await client.post("/v1/reserve", json=body), of_sidecar)
        says(await client.get("/v1/balance?org_id=far&user_id=ann"), of_sidecar)
        late = body | {"request_id": "r1"}
        says(await client.post("/v1/commit", json=late), of_sidecar)
        batch = await client.post("/v1/batch", json={"operations": [body | {"op": "charge"}]})
        assert batch.json()["results"][0]["status"] == 421
        gate = {"X-Org-Id": "far", "X-User-Id": "ann"}
        says(await client.get("/auth/charge/0.5", headers=gate), of_sidecar)
        with pytest.raises(WrongCell) as wrong:
            await meter.charge("far", "ann", 1)
        assert (wrong.value.cell, wrong.value.sidecar_url) == ("b", SIDECAR_OF_B)
        assert (await client.post("/v1/charge", json=body | {"org_id": "acme"})).status_code == 200
    await world.prove()


async def test_the_directory_away_stops_nobody_who_is_known(
    pool: asyncpg.Pool, directory_url: str
) -> None:
    await two_cells(pool)
    now = 0.0
    async with directory_of(directory_url, clock=lambda: now) as (directory, its_pool):
        with pytest.raises(WrongCell):
            await directory.check("far")
        await directory.check("nowhere")
        # Within its age nothing is asked again: the address stays for 30 seconds.
        await pool.execute("UPDATE taximeter.cell_organizations SET cell = 'a'")
        with pytest.raises(WrongCell):
            await directory.check("far")
        now = 30.0
        await directory.check("far")
        await pool.execute("UPDATE taximeter.cell_organizations SET cell = 'b'")
        now = 60.0
        with pytest.raises(WrongCell):
            await directory.check("far")

        await its_pool.close()
        now = 100_000.0
        with pytest.raises(WrongCell):
            await directory.check("far")
        for org_id in ("nowhere", "never asked for"):
            with pytest.raises(CellUnknown):
                await directory.check(org_id)
        with pytest.raises(CellUnknown):
            await directory.claim("new")


@pytest.mark.parametrize("api_options", [{"cell": "a", "directory_url": "postgresql://[::1]:1/x"}])
async def test_who_lives_here_needs_no_directory(world: World) -> None:
    await world.stores.pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ('acme', 'a', 'a', 'x')"
    )
    await world.funded()
    assert (await world.chat()).status_code == 200
    stranger = await world.client.get(f"{BILLING}/orgs/far", headers=world.auth("ann"))
    assert stranger.status_code == 503, stranger.text
    assert stranger.json()["error"]["details"]["reason"] == "directory_away"
    assert (await world.subscribe("new")).status_code == 503


async def test_a_cell_claims_a_new_organisation_once(
    pool: asyncpg.Pool, directory_url: str
) -> None:
    await two_cells(pool)
    async with directory_of(directory_url) as (directory, _):
        for _ in range(2):
            await directory.claim("new")
        with pytest.raises(WrongCell):
            await directory.claim("far")
        # Another one has its name for a slug.
        await pool.execute("UPDATE taximeter.cell_organizations SET slug = 'x' WHERE slug = 'new'")
        await directory.claim("x")
    rows = await pool.fetch("SELECT org_id, cell FROM taximeter.cell_organizations ORDER BY 1")
    assert [tuple(row) for row in rows] == [("far", "b"), ("new", "a"), ("x", "a")]


async def test_commands_fill_the_directory(pool: asyncpg.Pool, database_url: str) -> None:
    for org_id in ("acme", "far", "globex"):
        await pool.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ($1, $1, $1, 'x')",
            org_id,
        )
    urls = {
        "TAXIMETER_DIRECTORY_URL": database_url,
        "TAXIMETER_MIGRATE_DATABASE_URL": database_url,
    }

    async def run(*words: str) -> tuple[int, str]:
        found = await asyncio.to_thread(CliRunner().invoke, group, ["cell", *words], env=urls)
        return found.exit_code, found.output

    code, said = await run("register", "a")
    assert code == 1
    assert "the directory knows no cell a: `taximeter cell add a` first" in said
    for name in ("a", "b"):
        addresses = ("--api", f"https://{name}", "--sidecar", f"https://s.{name}/")
        assert (await run("add", name, *addresses))[0] == 0
    code, said = await run("add", "c", "--api", "c.example.com", "--sidecar", "https://c")
    assert (code, "--api must be a URL" in said) == (1, True)
    assert (await run("add", "C", "--api", "https://c", "--sidecar", "https://c"))[0] == 2
    await pool.execute("INSERT INTO taximeter.cell_organizations VALUES ('far', 'far', 'b')")
    code, said = await run("register", "a")
    assert (code, "2 of 3 organizations live in cell a" in said) == (1, True)
    assert "far lives in cell b: not registered" in said
    code, said = await run("list")
    assert code == 0
    assert "a  2 organizations  API https://a  sidecar https://s.a" in said
    assert "b  1 organizations" in said


async def test_the_overview_of_all_cells_adds_up(world: World, database_url: str) -> None:
    pool = world.stores.pool
    for name, url in (("a", world.url), ("b", world.url), ("c", "http://127.0.0.1:9")):
        await pool.execute("INSERT INTO taximeter.cells VALUES ($1, $2, $2)", name, url)
    await world.funded()
    urls = {"TAXIMETER_DIRECTORY_URL": database_url}

    async def run() -> tuple[int, str]:
        words = ["cell", "overview", "--token", world.token("root", system_admin=True)]
        found = await asyncio.to_thread(CliRunner().invoke, group, words, env=urls)
        return found.exit_code, found.output

    code, said = await run()
    assert (code, "c  does not answer: ConnectError" in said) == (1, True), said
    assert "b  1 organizations, 1 subscriptions" in said
    assert "all  2 organizations, 2 subscriptions, " in said
    assert ", 100 credits allocated" in said
    await pool.execute("DELETE FROM taximeter.cells WHERE name = 'c'")
    # Whoever has left is counted where it is now.
    await pool.execute("INSERT INTO taximeter.organizations_away VALUES ('acme', 'gone b u v')")
    code, said = await run()
    assert (code, "all  0 organizations, 0 subscriptions, 0 dollars" in said) == (0, True), said
