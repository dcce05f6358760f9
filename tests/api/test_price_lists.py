"""Price lists taken over by command, in force in every process from their moment on."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from support.sidecar import calling, served
from support.waiting import eventually
from support.world import World

from taximeter.api.commands.check import command as check_command
from taximeter.api.commands.prices import command as prices_command
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, following
from taximeter.meter import Meter, MeterSettings
from taximeter.meter.pricing import Pricer
from taximeter.meter.pricing.editions import PricesNotKnown
from taximeter.meter.sidecar import create_sidecar

MODEL = "gpt-4o-mini"
MAP = json.dumps(
    {
        MODEL: {"litellm_provider": "openai", "input_cost_per_token": 1e-06},
        "by-the-query": {"input_cost_per_query": 0.002},
    }
)
OLD_DAY = "2020-01-01"
DEAR = f'version = "dear"\n[models]\n{MODEL} = {{ input = 1, output = 4 }}\n'
TOKENS = {"prompt_tokens": 1000, "completion_tokens": 1000}
CHEAP_COST, DEAR_COST = 75, 500


@pytest.fixture
def api_options() -> dict[str, Any]:
    return {"price_file_check_s": 0.05, "price_age_max_days": 30}


async def prices(world: World, *arguments: object, ok: bool = True) -> Result:
    """`taximeter prices`, as the user of the API."""
    environment = {"TAXIMETER_DATABASE_URL": world.settings.database_url}
    words = list(map(str, arguments))
    result = await asyncio.to_thread(CliRunner().invoke, prices_command, words, env=environment)
    assert (result.exit_code == 0) == ok, result.output
    return result


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


async def charged(world: World) -> list[tuple[int, dict[str, Any]]]:
    return [(one["credits_used"], json.loads(one["metadata"])) for one in await world.charges()]


async def test_a_list_begins_at_its_moment_in_every_process(
    world: World, redis_url: str, tmp_path: Path
) -> None:
    """The API and two sidecars, one by Postgres and one by a file, and what spans the moment."""
    await world.funded()
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    clock = [datetime.now(UTC).timestamp()]
    at_postgres, at_file = (Pricer(waits_for_editions=True, now=lambda: clock[0]) for _ in range(2))
    pricer: Pricer = world.app.state.services.pricer
    pricer._now = lambda: clock[0]

    text = written(tmp_path / "dear.toml", DEAR)
    at = moment.isoformat()
    taken = await prices(world, "refresh", text, "--at", at, "--yes", "--by", "olga")
    assert f"changed  openai/{MODEL}: input" in taken.output
    assert "0.15 ->          1  x6.67" in taken.output
    assert f"list 1 is in force from {at} on" in taken.output
    exported = tmp_path / "lists.json"
    await prices(world, "export", exported)

    settings = MeterSettings(key_prefix=world.settings.key_prefix)
    async with (
        await Meter.connect(redis_url, settings=settings) as meter,
        following(at_postgres, 3600, Editions(world.stores.pool, None)),
        following(at_file, 3600, Editions(None, exported)),
        served(create_sidecar(meter, pricer=at_postgres)) as one,
        served(create_sidecar(meter, pricer=at_file)) as other,
        calling(one) as first,
        calling(other) as second,
    ):

        async def is_known() -> bool:
            return bool(pricer._editions)

        await eventually(is_known, what="the API reads the list that is to come")
        bounds = {"model": MODEL, "prompt_tokens": 1000, "max_output_tokens": 1000}
        for caller, request in ((first, "s1"), (second, "s2")):
            await caller.ok("reserve", request_id=request, **bounds)
        running = asyncio.create_task(world.chat(simulate={"latency_s": 1.0}))

        async def is_held() -> bool:
            return (await world.balance()).held > 2 * CHEAP_COST

        await eventually(is_held, what="the hold of the request")
        clock[0] = moment.timestamp()
        # What was opened before has its price, whoever ends it.
        for caller, request in ((second, "s1"), (first, "s2")):
            done = await caller.ok("commit", request_id=request, model=MODEL, tokens=TOKENS)
            assert done["charged_millicredits"] == CHEAP_COST
            done = await caller.ok("charge", model=MODEL, tokens=TOKENS)
            assert done["charged_millicredits"] == DEAR_COST
        assert (await running).status_code == 200
        assert (await world.chat()).status_code == 200
    spanning, after = (
        made
        for _, made in await charged(world)
        if made["price_of"] == f"openai/{MODEL}" and made.get("provider") == "simulated"
    )
    assert (spanning["price_source"], after["price_source"]) == ("genai-prices", "list")
    assert after["price_version"].startswith("list 1, dear.toml dear, 100 credits")
    assert after["price_dated"] == datetime.now(UTC).date().isoformat()
    row = await world.stores.pool.fetchrow(
        "SELECT actor, org_id, target, after FROM taximeter.audit_log"
        " WHERE action = 'prices.list.taken_over'"
    )
    assert row is not None
    assert (row["actor"], row["org_id"], row["target"]) == ("olga", None, "list 1")
    assert json.loads(row["after"])["version"] == "dear.toml dear"
    # Whoever asks sees it in the list of requests and in the table.
    requests = "/api/v1/org-billing/credits/acme/requests"
    listed = (await world.client.get(requests, headers=world.auth("boss"))).json()["requests"]
    assert {one["price"]["dated"] for one in listed} >= {after["price_dated"]}
    table = (await world.client.get(f"{requests}.csv", headers=world.auth("boss"))).text
    assert "price_of,price_source,price_version,price_dated,price_age_days" in table
    assert f"openai/{MODEL},list," in table


async def test_history_back_and_withdrawal(world: World, tmp_path: Path) -> None:
    pricer: Pricer = world.app.state.services.pricer

    async def in_force(number: int | None) -> None:
        async def is_it() -> bool:
            found = pricer.edition
            return (None if found is None else found.number) == number

        await eventually(is_it, what=f"list {number}")

    assert "the installed package is in force" in (await prices(world, "history")).output
    await prices(world, "refresh", written(tmp_path / "dear.toml", DEAR), "--yes")
    await in_force(1)
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    text = written(tmp_path / "later.toml", DEAR.replace("input = 1", "input = 2"))
    await prices(world, "refresh", text, "--yes", "--at", later)
    wrong = await prices(world, "withdraw", 1, ok=False)
    assert "list 1 is none that begins in more than a minute" in wrong.output
    assert "list 2, later.toml dear, will not begin" in (await prices(world, "withdraw", 2)).output
    await prices(world, "withdraw", 2, ok=False)
    # Back to what the package has, and to the first one again.
    await prices(world, "back", 0, "--yes")
    await in_force(3)
    assert pricer.price(MODEL).source == "genai-prices"
    assert pricer.price(MODEL).version.startswith("list 3, genai-prices ")
    await prices(world, "back", 1, "--yes", "--by", "olga")
    await in_force(4)
    rows = json.loads((await prices(world, "history", "--json")).output)
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert [row["in_force"] for row in rows] == [False, False, False, True]
    assert (rows[3]["back_to"], rows[3]["created_by"]) == (1, "olga")
    assert rows[3]["digest"] == rows[0]["digest"]
    assert rows[1]["withdrawn_at"] is not None
    again = tmp_path / "again.toml"
    shown = await prices(world, "history", 1, "--output", again)
    assert again.read_text() == DEAR
    assert "dear.toml dear" in shown.output
    assert "there is no list 9" in (await prices(world, "back", 9, "--yes", ok=False)).output
    assert "list 4, dear.toml dear" in (await prices(world, "show", MODEL)).output
    # Nobody rewrites what was in force.
    pool = world.stores.pool
    for change in ("SET starts_at = now()", "SET withdrawn_at = now(), withdrawn_by = 'x'"):
        with pytest.raises(asyncpg.PostgresError):
            await pool.execute(f"UPDATE taximeter.price_lists {change} WHERE id = 1")
    with pytest.raises(asyncpg.PostgresError):
        await pool.execute("DELETE FROM taximeter.price_lists")


async def test_a_broken_list_is_refused_unless_it_is_accepted_by_name(
    world: World, tmp_path: Path
) -> None:
    per_token = written(tmp_path / "wrong.toml", f"[models]\n{MODEL} = {{ input = 15e-8 }}\n")
    report = tmp_path / "report.txt"
    refused = await prices(world, "refresh", per_token, "--yes", "--report", report, ok=False)
    assert f"openai/{MODEL}: input 0.15 -> 0.00000015 dollars (factor)" in refused.output
    assert "nothing was taken over" in refused.output
    assert f"openai/{MODEL}" in report.read_text()
    free = written(tmp_path / "free.toml", f"[models]\n{MODEL} = {{ input = 0, output = 0 }}\n")
    assert "(free)" in (await prices(world, "refresh", free, "--yes", ok=False)).output
    old = await prices(
        world, "refresh", written(tmp_path / "d.toml", DEAR), "--yes", "--dated", OLD_DAY, ok=False
    )
    assert "the new prices are of 2020-01-01, those in force of" in old.output
    same = await prices(world, "refresh", "--yes", ok=False)
    assert "the list is the one that is in force (same)" in same.output
    for arguments, said in (
        (("--at", "2026-12-01T00:00"), "is no moment with a time zone"),
        (("--at", "2020-01-01T00:00Z"), "has passed"),
        (("--dated", "2999-01-01"), "has not come yet"),
    ):
        assert said in (await prices(world, "refresh", per_token, *arguments, ok=False)).output
    empty = await prices(world, "refresh", written(tmp_path / "e.toml", "[models]\n"), ok=False)
    assert "has no models" in empty.output
    found = json.loads(
        (await prices(world, "refresh", free, "--dry-run", "--json", ok=False)).output
    )
    assert (found["refused"], found["taken_over"]) == (True, None)
    assert await world.stores.pool.fetchval("SELECT count(*) FROM taximeter.price_lists") == 0
    await prices(world, "refresh", free, "--yes", "--accept", f"openai/{MODEL}")
    # LiteLLM's map and the list that the package's authors publish are taken as they are.
    map_file = tmp_path / "map.json"
    map_file.write_text(MAP)
    taken = (await prices(world, "refresh", map_file, "--yes", "--report", report)).output
    assert "list 2 is in force" in taken
    assert (
        "1 models were left out:\n  by-the-query: cannot be metered: input_cost_per_query" in taken
    )
    assert "by-the-query: cannot be metered" in report.read_text()
    await prices(world, "history", 2, "-o", tmp_path / "map.toml")
    assert "input = 1 }" in (tmp_path / "map.toml").read_text()


async def test_old_prices_are_an_alarm_and_nothing_stops(
    world: World, settler_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    text = written(tmp_path / "dear.toml", DEAR)
    await prices(
        world, "refresh", text, "--yes", "--dated", OLD_DAY, "--accept", "older", "--accept", "same"
    )

    async def is_said() -> bool:
        return bool((await world.client.get("/readyz")).json()["reason"] == "prices_old")

    await eventually(is_said, what="readyz says so")
    ready = await world.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")

    async def is_in_status() -> bool:
        answer = (await world.client.get("/api/v1/system/status")).json()
        return bool(answer["prices"] == {"status": "degraded", "reason": "old"})

    await eventually(is_in_status, what="the status says so")
    environment = {
        "TAXIMETER_DATABASE_URL": settler_database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_KEY_PREFIX": world.settings.key_prefix,
        "TAXIMETER_PRICE_AGE_MAX_DAYS": "30",
    }
    proved = await asyncio.to_thread(CliRunner().invoke, check_command, [], env=environment)
    assert proved.exit_code == 3, proved.output
    words = " ".join(proved.output.split())
    assert "The books are right." in words
    assert "days old, of 2020-01-01 (list 1, dear.toml dear); 30 are allowed" in words
    await world.funded()
    assert (await world.chat()).status_code == 200


async def test_who_cannot_read_the_lists_prices_nothing_by_model(
    world: World, redis_url: str, tmp_path: Path
) -> None:
    await world.funded()
    pricer = Pricer(waits_for_editions=True)
    lists = tmp_path / "lists.json"
    settings = MeterSettings(key_prefix=world.settings.key_prefix)
    async with (
        await Meter.connect(redis_url, settings=settings) as meter,
        following(pricer, 0.02, Editions(None, lists), age := PriceAge(pricer, 30)),
        served(create_sidecar(meter, pricer=pricer, price_alarm=age.word)) as url,
        calling(url) as caller,
    ):
        status, code, _ = await caller.refused("charge", model=MODEL, tokens=TOKENS)
        assert (status, code) == (503, "PRICES_NOT_KNOWN")
        await caller.ok("charge", amount_millicredits=5)
        assert (await caller.client.get("/readyz")).json()["prices"] == "not_known"
        lists.write_text("{}")
        with pytest.raises(PricesNotKnown):
            pricer.price(MODEL)
        made = tmp_path / "new"
        await prices(world, "refresh", written(tmp_path / "dear.toml", DEAR), "--yes")
        await prices(world, "export", made)
        os.replace(made, lists)

        async def is_priced() -> bool:
            return (await caller.post("charge", model=MODEL, tokens=TOKENS)).status_code == 200

        await eventually(is_priced, what="the file is read")
        assert (await caller.client.get("/readyz")).json() == {"status": "ok"}
        await caller.ok("charge", model=MODEL, tokens=TOKENS)
        lists.write_text("{}")

        async def is_said() -> bool:
            ready = await caller.client.get("/readyz")
            return bool(ready.json() == {"status": "degraded", "prices": "unreadable"})

        await eventually(is_said, what="readyz says that the file cannot be read")
        await caller.ok("charge", model=MODEL, tokens=TOKENS)


async def test_a_list_that_a_process_cannot_parse_degrades_it(world: World, tmp_path: Path) -> None:
    """What this version of the program cannot read, another one may have written."""
    await world.funded()
    await prices(world, "refresh", written(tmp_path / "dear.toml", DEAR), "--yes")
    compared = await prices(world, "diff", written(tmp_path / "map.json", MAP), "--least", 0)
    assert compared.output.startswith("list 1, dear.toml dear, beside map.json\n")
    await world.app.state.services.pool.execute(
        "INSERT INTO taximeter.price_lists (kind, version, source, digest, content, models, dated,"
        " starts_at, created_by) SELECT kind, 'other', source, digest, 'x'::bytea, models, dated,"
        " now(), created_by FROM taximeter.price_lists"
    )

    async def is_said() -> bool:
        ready = await world.client.get("/readyz")
        assert ready.status_code == 200
        return bool(ready.json()["reason"] == "prices_unreadable")

    await eventually(is_said, what="readyz says so")
    assert (await world.chat()).status_code == 200
