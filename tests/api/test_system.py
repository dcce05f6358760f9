"""The status page, the commands, and what happens while a store is away."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from support.servers import with_login
from support.waiting import eventually
from support.world import World, serving

from taximeter.api.app import create_app
from taximeter.api.commands.token import command as token_command
from taximeter.api.embedded.machine import free_port
from taximeter.api.settings.api import ApiSettings
from taximeter.api.simulator.app import create_simulator
from taximeter.settler.books.stores import Stores

STATUS = "/api/v1/system/status"
START = "from taximeter.api.cli import main; main()"


async def test_status_of_a_healthy_system(world: World) -> None:
    response = await world.client.get(STATUS)
    assert response.status_code == 200, response.text
    health = response.json()
    assert health["status"] == "ok"
    assert [shard["status"] for shard in health["shards"]] == ["ok", "ok"]
    assert health["settler"]["settlement_lag_s"] == 0.0


async def test_a_settler_that_has_stopped_shows_without_traffic(world: World) -> None:
    async def beats(change: str) -> tuple[int, dict[str, Any]]:
        await world.stores.pool.execute(f"UPDATE taximeter.heartbeats SET {change}")
        seen = await world.client.get(STATUS)

        async def has_looked_again() -> bool:
            nonlocal seen
            seen = await world.client.get(STATUS)
            return bool(seen.json()["settler"]["reason"] != before)

        before = seen.json()["settler"]["reason"]
        await eventually(has_looked_again)
        return seen.status_code, seen.json()["settler"]

    await world.client.get(STATUS)
    status, settler = await beats("beat_at = clock_timestamp() - interval '4 seconds'")
    assert (status, settler["status"], settler["reason"]) == (503, "down", "stopped")
    assert (settler["alive"], settler["stopped"]) == (0, 1)
    status, settler = await beats(
        "beat_at = clock_timestamp() + interval '1 hour', clock_off_s = 60"
    )
    assert (status, settler["reason"]) == (200, "clock_off")
    status, settler = await beats("trouble = 'OSError'")
    assert (status, settler["reason"]) == (503, "failing:guard")


async def test_the_api_is_ready_without_postgres_and_not_without_redis(
    stores: Stores, redis_url: str, tmp_path: Path
) -> None:
    for database, redis, ready in (
        ("postgresql://127.0.0.1:1/x", redis_url, True),
        ("postgresql://127.0.0.1:1/x", "redis://127.0.0.1:1/0", False),
    ):
        settings = ApiSettings(
            database_url=database,
            redis_url=redis,
            key_prefix=stores.prefix,
            dev_mode=True,
            data_dir=tmp_path,
        )
        async with (
            serving(create_app(settings)) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
        ):
            assert (await client.get("/livez")).json() == {"status": "ok", "reason": None}
            response = await client.get("/readyz")
            assert response.status_code == (200 if ready else 503), response.text
            assert "127.0.0.1" not in response.text


async def test_a_wrong_password_says_so(
    database_url: str, redis_url: str, stores: Stores, tmp_path: Path
) -> None:
    settings = ApiSettings(
        database_url=with_login(database_url, "taximeter_app").replace("test_taxi", "nobody_"),
        redis_url=redis_url.replace("redis://", "redis://user:wrong@"),
        key_prefix=stores.prefix,
        dev_mode=True,
        data_dir=tmp_path,
    )
    async with (
        serving(create_app(settings)) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        health = (await client.get(STATUS)).json()
    assert health["redis"]["reason"] == "password_refused"
    assert health["postgres"]["reason"] == "password_refused"


async def test_status_while_a_shard_is_closed(world: World) -> None:
    await world.stores.redis.hset(world.stores.keys(1).meta, "epoch", "fenced")
    response = await world.client.get(STATUS)
    assert response.status_code == 503
    assert response.json()["shards"][1]["reason"] == "fenced"


@pytest.mark.parametrize("missing", ["redis", "postgres", "both"])
async def test_the_api_starts_and_says_what_is_missing(
    stores: Stores, database_url: str, redis_url: str, tmp_path: Path, missing: str
) -> None:
    settings = ApiSettings(
        database_url="postgresql://127.0.0.1:1/x" if missing != "redis" else database_url,
        redis_url="redis://127.0.0.1:1/0" if missing != "postgres" else redis_url,
        key_prefix=stores.prefix,
        dev_mode=True,
        data_dir=tmp_path,
    )
    async with (
        serving(create_app(settings)) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        response = await client.get(STATUS)
        assert response.status_code == 503
        health = response.json()
        assert health["status"] == "down"
        assert health["redis"]["status"] == ("ok" if missing == "postgres" else "down")
        assert health["postgres"]["status"] == ("ok" if missing == "redis" else "down")
        assert "127.0.0.1" not in response.text, "no address of the inside"


async def test_who_am_i(world: World) -> None:
    await world.funded("ann", 5.0)
    found = (await world.client.get("/api/v1/auth/user", headers=world.auth("ann"))).json()
    assert found["user_id"] == "ann"
    assert found["is_system_admin"] is False
    assert [one["org_id"] for one in found["organizations"]] == ["acme"]
    assert (await world.client.get("/api/v1/auth/user", headers=world.root)).json()[
        "is_system_admin"
    ]


async def test_without_an_upstream_the_llm_route_says_so(world: World) -> None:
    await world.funded()
    services = world.app.state.services
    world.app.state.services = dataclasses.replace(services, router=None)
    try:
        response = await world.client.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]},
            headers=world.auth("ann"),
        )
    finally:
        world.app.state.services = services
    assert response.status_code == 503
    assert response.json()["error"]["details"]["reason"] == "upstream_not_configured"


def test_token_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    monkeypatch.chdir(tmp_path)  # Where no `taximeter dev` has left its key.
    refused = runner.invoke(token_command, ["--user", "ann"])
    assert refused.exit_code == 1
    monkeypatch.setenv("TAXIMETER_OIDC_ISSUER", "https://id.example")
    monkeypatch.setenv("TAXIMETER_OIDC_AUDIENCE", "taximeter")
    refused = runner.invoke(token_command, ["--user", "ann", "--data-dir", str(tmp_path)])
    assert refused.exit_code == 1
    assert "TAXIMETER_OIDC_ISSUER is for real sessions" in refused.output
    monkeypatch.setenv("TAXIMETER_DEV_MODE", "1")
    refused = runner.invoke(token_command, ["--user", "ann", "--data-dir", str(tmp_path)])
    assert refused.exit_code == 1
    assert "unset one of them" in refused.output
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("TAXIMETER_OIDC_ISSUER")
    monkeypatch.delenv("TAXIMETER_OIDC_AUDIENCE")
    minted = runner.invoke(token_command, ["--user", "ann", "--data-dir", str(tmp_path)])
    assert minted.exit_code == 0
    assert minted.stdout.count(".") == 2
    for wrong in (["--user", ""], ["--user", "a\nb"], ["--user", "ann", "--ttl", "0"]):
        result = runner.invoke(token_command, [*wrong, "--data-dir", str(tmp_path)])
        assert result.exit_code != 0
        assert result.output


@pytest.mark.slow
async def test_the_api_as_a_process_finishes_what_it_began(world: World, tmp_path: Path) -> None:
    """SIGTERM in the middle of a stream: it is charged before the process ends."""
    await world.funded("ann", 20.0)
    port = free_port()
    environment = {
        **os.environ,
        "TAXIMETER_DATABASE_URL": world.settings.database_url,
        "TAXIMETER_REDIS_URL": world.settings.redis_url,
        "TAXIMETER_KEY_PREFIX": world.settings.key_prefix,
        "TAXIMETER_DEV_MODE": "1",
        "TAXIMETER_DATA_DIR": str(world.settings.data_dir),
        "TAXIMETER_UPSTREAM_BASE_URL": world.settings.upstream_base_url or "",
        "TAXIMETER_SHUTDOWN_GRACE_S": "1",
    }
    process = subprocess.Popen(  # noqa: ASYNC220  # It must outlive no test: it is ended below.
        [sys.executable, "-c", START, "api", "--port", str(port)],
        env=environment,
        stderr=subprocess.PIPE,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:

            async def is_up() -> bool:
                try:
                    return (await client.get(STATUS)).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_up, within_s=60, what="the API")
            body = {
                "model": "gpt-4o",
                "messages": [{"role": "user", "content": "Hi"}],
                "stream": True,
                "simulate": {"chunk_delay_s": 0.2},
            }

            async def read_and_stop() -> None:
                got = b""
                async with client.stream(
                    "POST", "/v1/chat/completions", json=body, headers=world.auth("ann")
                ) as response:
                    async for part in response.aiter_bytes():
                        got += part
                        if got.count(b'"content"') == 4:
                            process.send_signal(signal.SIGTERM)

            with pytest.raises(httpx.TransportError):
                await read_and_stop()
            code = await asyncio.to_thread(process.wait, 20)
        assert code in (0, -signal.SIGTERM)
        (charge,) = await world.charges()
        assert charge["credits_used"] > 0
        assert (await world.balance()).held == 0
        await world.prove()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


async def test_the_simulator_is_labelled_and_repeats_itself() -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "n": 2}
    async with (
        serving(create_simulator()) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        one = await client.post("/v1/chat/completions", json=body)
        two = await client.post("/v1/chat/completions", json=body)
        assert one.content == two.content
        assert one.headers["X-Simulated-Provider"] == "true"
        document = one.json()
        assert document["system_fingerprint"] == "simulated"
        assert "simulated answer" in document["choices"][0]["message"]["content"]
        assert len(document["choices"]) == 2
        assert [m["id"] for m in (await client.get("/v1/models")).json()["data"]]
        limited = await client.post("/v1/chat/completions", json={**body, "n": 1, "max_tokens": 3})
        assert limited.json()["choices"][0]["finish_reason"] == "length"
        assert limited.json()["usage"]["completion_tokens"] == 3
        tools = await client.post("/v1/chat/completions", json={**body, "tools": [{"type": "x"}]})
        assert tools.status_code == 200
        unknown = await client.post("/v1/chat/completions", json={**body, "model": "x"})
        assert unknown.status_code == 404
        bad = await client.post("/v1/chat/completions", json={**body, "simulate": {"x": 1}})
        assert bad.status_code == 400
