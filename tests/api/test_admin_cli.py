"""`taximeter admin` does what the admin API does, and says of each change what became of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from support.proxy import Proxy
from support.waiting import eventually
from support.world import World

from taximeter.api.app import create_app
from taximeter.api.commands import group
from taximeter.api.commands.admin_api import caller as callers
from taximeter.api.commands.admin_api.routes import ACTIONS, LEFT_OUT
from taximeter.api.routes import exports
from taximeter.api.settings.api import ApiSettings

OUTSIDE = ("/api/v1/llm", "/v1/")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ApiSettings(dev_mode=True)).openapi()


def routes(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if not path.startswith(OUTSIDE)
    }


def fields_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """What may be sent, by name: fields of the query, or those of the body."""
    pages = {"limit", "offset", "cursor"}
    found = {
        one["name"]: one["schema"] | {"required": one.get("required", False)}
        for one in operation.get("parameters", [])
        if one["in"] == "query" and one["name"] not in pages
    }
    body = operation.get("requestBody")
    if body is not None:
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name]
        needed = schema.get("required", [])
        found |= {
            name: one | {"required": name in needed} for name, one in schema["properties"].items()
        }
    return found


def choices_of(schema: dict[str, Any]) -> list[str] | None:
    """The words that a field takes, if it takes words alone."""
    for one in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        if "enum" in one:
            return list(one["enum"])
    return None


def test_every_route_is_a_command_or_left_out_for_a_reason(document: dict[str, Any]) -> None:
    covered = {(one.method, one.path) for one in ACTIONS}
    assert covered | set(LEFT_OUT) == set(routes(document))
    assert not covered & set(LEFT_OUT)


def test_every_field_is_an_option(document: dict[str, Any]) -> None:
    for action in ACTIONS:
        operation = routes(document)[action.method, action.path]
        fields = fields_of(document, operation)
        ours = {one.name: one for one in action.fields}
        assert set(ours) | set(action.fixed or {}) == set(fields), action
        for name, one in ours.items():
            assert one.required or one.default or not fields[name]["required"], (action, name)
            words = choices_of(fields[name])
            if words is not None:
                assert isinstance(one.kind, click.Choice), (action, name)
                assert sorted(one.kind.choices) == sorted(words), (action, name)
        parameters = {one["name"] for one in operation.get("parameters", [])}
        assert action.keyed == ("Idempotency-Key" in parameters), action
        assert action.paged == ("limit" in parameters), action


def test_columns_are_fields_of_the_answers(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def at(schema: dict[str, Any], path: str) -> dict[str, Any]:
        for name in path.split("."):
            if "$ref" in schema:
                schema = schemas[schema["$ref"].rpartition("/")[2]]
            schema = schema["properties"][name]
        return schema

    for action in ACTIONS:
        answer = routes(document)[action.method, action.path]["responses"]["200"]
        if action.is_file:
            assert "application/json" not in answer["content"]
            continue
        schema = answer["content"]["application/json"]["schema"]
        for name in action.totals:
            at(schema, name)
        if action.rows is not None:
            for column in action.columns:
                at(at(schema, action.rows)["items"], column)


@pytest.fixture
async def acme(world: World) -> World:
    await world.funded("ann", 50.0)
    await world.add_member("bob")
    return world


class Shell:
    """Somebody who types commands, as a system admin unless told otherwise."""

    def __init__(self, world: World, url: str | None = None) -> None:
        self._world, self._url = world, url or world.url
        self.token = world.token("root", system_admin=True)

    async def run(self, *words: str) -> Result:
        env = {"TAXIMETER_API_URL": self._url, "TAXIMETER_API_TOKEN": self.token}
        return await asyncio.to_thread(CliRunner().invoke, group, ["admin", *words], env=env)

    async def says(self, *words: str) -> str:
        result = await self.run(*words)
        assert result.exit_code == 0, result.output
        return result.output

    async def answers(self, *words: str) -> Any:
        return json.loads(await self.says(*words, "--format", "json"))


async def test_a_day_of_an_admin(acme: World) -> None:
    shell = Shell(acme)
    assert (await shell.answers("whoami"))["is_system_admin"] is True
    await shell.says(
        "subscription", "create", "globex", "professional", "--name", "Globex",
        "--email", "billing@globex.example", "--admin", "boss", "--credits", "1000.5",
    )  # fmt: skip
    await shell.says("credits", "buy", "globex", "0.5", "--paid", "45.10")
    await shell.says("member", "add", "globex", "eve")
    await shell.says("credits", "allocate", "globex", "eve", "200.001")
    await shell.says("credits", "terms", "globex", "eve", "--expires", "2030-01-31")
    terms = await shell.answers("credits", "allocations", "globex", "--user", "eve")
    assert terms["allocations"][0]["expires_at"].startswith("2030-01-31T00:00:00")
    await shell.says("credits", "terms", "globex", "eve", "--expires", "null")
    terms = await shell.answers("credits", "allocations", "globex", "--user", "eve")
    assert terms["allocations"][0]["expires_at"] is None
    pool = await shell.answers("credits", "show", "globex")
    assert (pool["total_credits"], pool["allocated_credits"]) == (1001.0, 200.001)

    made = await shell.answers(
        "api-key", "create", "acme", "gate", "--may", "reserve", "--may", "llm"
    )
    assert made["api_key"]["operations"] == ["llm", "reserve"]
    await shell.says("api-key", "revoke", "acme", made["api_key"]["key_id"])
    assert await shell.answers("api-key", "list", "acme") == {"keys": []}
    assert len((await shell.answers("api-key", "list", "acme", "--ended"))["keys"]) == 1

    await shell.says("org", "suspend", "globex", "--reason", "a bill is open")
    assert "globex" in await shell.says("org", "list", "--state", "suspended")
    assert (await shell.answers("org", "state", "globex"))["state"] == "suspended"
    await shell.says("org", "resume", "globex", "--reason", "it was paid")
    log = await shell.answers("audit", "globex", "--all")
    assert {"org.suspended", "org.suspension.lifted"} <= {one["action"] for one in log["entries"]}


async def test_credits_stand_in_tables_with_every_digit(acme: World) -> None:
    shell = Shell(acme)
    await shell.says("credits", "adjust", "acme", "--by", "1234567.891", "--reason", "a gift")
    assert (await acme.chat()).status_code == 200
    await acme.settle()
    table = await shell.says("credits", "allocations", "acme")
    assert table.splitlines()[0].split()[:2] == ["user_id", "allocated_credits"]
    assert table.splitlines()[1].split()[:2] == ["ann", "50.000"]
    assert "1,234,667.891" in await shell.says("credits", "show", "acme")
    usage = await shell.says("usage", "acme", "--by", "model")
    assert "gpt-4o-mini" in usage
    assert "total_credits_used" in usage
    assert "gpt-4o-mini" in await shell.says("requests", "acme", "--user", "ann")


async def test_lists_are_whole_over_several_pages(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taximeter.api.commands.admin_api import actions

    monkeypatch.setattr(actions, "PAGE_MAX", 2)
    for user in ("cid", "dan", "eli"):
        await acme.add_member(user)
    shell = Shell(acme)
    members = (await shell.answers("member", "list", "acme", "--all"))["members"]
    assert sorted(one["user_id"] for one in members) == ["ann", "bob", "boss", "cid", "dan", "eli"]
    few = await shell.run("audit", "acme", "--limit", "3")
    assert "the first 3; --all shows all of them" in few.output
    whole = (await shell.answers("audit", "acme", "--all"))["entries"]
    assert len({one["id"] for one in whole}) == len(whole) > 3


async def test_an_export_is_a_whole_file_or_none(
    acme: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    shell, path = Shell(acme), folder / "ledger.csv"
    said = await shell.says("export", "acme", "ledger", "-o", str(path))
    assert said == f"{path}: {path.stat().st_size:,} bytes\n"
    whole = path.read_bytes()
    assert b"50.000" in whole
    table = folder / "all.parquet"
    await shell.says("export-all", "ledger", "--format", "parquet", "--output", str(table))
    assert table.read_bytes()[-4:] == b"PAR1"
    # Refused, or broken off in the middle: what was there is there still, and nothing else.
    refused = await shell.run("export", "acme", "secrets", "-o", str(path))
    assert (refused.exit_code, "kind" in refused.output) == (1, True)
    nowhere = await shell.run("export", "acme", "ledger", "-o", str(folder / "no" / "x.csv"))
    assert (nowhere.exit_code, nowhere.output.count("\n")) == (1, 1)
    pieces = exports._all

    async def breaks(begun: bytes, rest: Any) -> Any:
        async for piece in pieces(begun, rest):
            yield piece[:10]
            raise OSError("gone")

    monkeypatch.setattr(exports, "_all", breaks)
    broken = await shell.run("export", "acme", "ledger", "-o", str(path))
    assert broken.exit_code == 1
    assert "broke it off after 10 bytes" in broken.output
    assert path.read_bytes() == whole
    assert sorted(os.listdir(folder)) == ["all.parquet", "ledger.csv"]


async def test_a_dry_run_sends_nothing(acme: World) -> None:
    shell = Shell(acme)
    said = await shell.says("credits", "transfer", "acme", "ann", "bob", "12.5", "--dry-run")
    assert [line.split()[-2:] for line in said.splitlines()[1:3]] == [
        ["50.000", "37.500"],
        ["0.000", "12.500"],
    ]
    said = await shell.says("credits", "deallocate", "acme", "ann", "50.001", "--dry-run")
    assert "would be refused now: ann has 50.000, and 50.001 are asked for" in said
    for words in (
        ("credits", "allocate", "acme", "bob", "1"),
        ("credits", "buy", "acme", "1", "--paid", "1"),
        ("credits", "adjust", "acme", "--by", "-1000", "--reason", "an error"),
        ("credits", "refund", "acme", "ann", "1", "--reason", "an outage"),
        ("credits", "grant", "zoe", "5"),
        ("member", "remove", "acme", "ann"),
        ("org", "delete", "acme", "--reason", "over", "--confirm", "acme"),
    ):
        assert "would send" in await shell.says(*words, "--dry-run"), words
    pool = await shell.answers("credits", "show", "acme")
    assert (pool["total_credits"], pool["allocated_credits"]) == (100.0, 50.0)
    members = (await shell.answers("member", "list", "acme"))["members"]
    assert sorted(one["user_id"] for one in members) == ["ann", "bob", "boss"]


async def test_refusals_are_one_line_and_name_what_is_wrong(acme: World) -> None:
    shell = Shell(acme)

    async def refused(*words: str, code: int) -> str:
        result = await shell.run(*words)
        assert result.exit_code == code, result.output
        return result.output.strip().splitlines()[-1]

    said = await refused("credits", "transfer", "acme", "ann", "bob", "51", code=1)
    assert "INSUFFICIENT_CREDITS" in said
    assert '"need": 51.0, "have": 50.0' in said
    assert "CREDITS" in await refused("credits", "allocate", "acme", "ann", "0.0001", code=2)
    assert "at most 3 decimals" in await refused("credits", "allocate", "acme", "ann", "x", code=2)
    assert "--paid" in await refused("credits", "buy", "acme", "1", "--paid", "-1", code=2)
    shell.token = "nobody's"
    assert "401" in await refused("org", "list", code=1)
    shell.token = acme.token("ann")
    assert "403" in await refused("credits", "allocate", "acme", "ann", "1", code=1)


async def test_a_lost_answer_moves_credits_once(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "PAUSE_S", 0.01)
    async with Proxy(acme.url) as proxy:
        shell = Shell(acme, proxy.url)
        proxy.lose_replies(1, to=b"POST")
        await shell.says("credits", "transfer", "acme", "ann", "bob", "10")
        assert proxy.lost == 1
        # No try is answered: it is not known, and nobody is told that it was refused.
        proxy.lose_replies(callers.TRIES, to=b"POST")
        words = ("credits", "deallocate", "acme", "ann", "10")
        result = await shell.run(*words)
        assert result.exit_code == callers.NOT_KNOWN, result.output
        assert "It may have taken effect" in result.output
        key = result.output.rpartition("--idempotency-key ")[2].split()[0]
        await shell.says(*words, "--idempotency-key", key)
        # What is refused by what an earlier try has done is not told as refused.
        proxy.lose_replies(1, to=b"DELETE")
        result = await shell.run("member", "remove", "acme", "bob")
        assert result.exit_code in (0, callers.NOT_KNOWN), result.output
    found = await Shell(acme).answers("credits", "allocations", "acme", "--user", "ann")
    assert found["allocations"][0]["remaining_credits"] == 30.0


async def test_what_is_not_well_is_shown_too(acme: World) -> None:
    """The status answers 503 then, which is an answer and no refusal."""
    assert (await Shell(acme).answers("status"))["status"] == "ok"
    await acme.stores.redis.flushall()

    async def is_told() -> bool:  # What was found a moment ago is told again.
        result = await Shell(acme).run("status", "--format", "json")
        is_ok = json.loads(result.output)["shards"][0]["status"] == "ok"
        assert result.exit_code == (0 if is_ok else 1)
        return not is_ok

    await eventually(is_told)


async def test_beside_a_dev_system_nobody_needs_a_token(
    acme: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TAXIMETER_API_TOKEN", "TAXIMETER_API_URL", "TAXIMETER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    alone = await asyncio.to_thread(CliRunner().invoke, group, ["admin", "whoami"])
    assert "TAXIMETER_API_TOKEN: set it to a session token" in alone.output
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "dev").symlink_to(acme.settings.data_dir.resolve())
    minted = callers.token()
    assert minted.source == "the key of .data/dev"
    assert minted.text not in repr(minted)
    shell = Shell(acme)
    shell.token = minted.text
    assert (await shell.answers("whoami"))["is_system_admin"] is True


async def test_an_api_that_is_away_is_said_to_be(acme: World) -> None:
    shell = Shell(acme, "http://127.0.0.1:1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(callers, "PAUSE_S", 0.01)
        result = await shell.run("credits", "transfer", "acme", "ann", "bob", "1")
    assert result.exit_code == 1
    assert "Nothing was changed" in result.output
    bad = await Shell(acme, "ftp://x").run("org", "list")
    assert "--api-url" in bad.output
    assert bad.exit_code == 2
