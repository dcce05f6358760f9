"""`taximeter sidecar` as a real process: start, keys, sockets, stores that come and go, drain."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from support.books import Books
from support.forked import run_forked
from support.frozen import frozen_objects
from support.old_keys import make_old_key
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.sidecar import FUNDS, JSON, Caller, calling, problem
from support.waiting import eventually

from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.meter.wire.keys import ShardKeys

COMMAND = (sys.executable, "-m", "taximeter.api", "sidecar")
CHARGE = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'


def environment(**settings: object) -> dict[str, str]:
    ours = {f"TAXIMETER_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **ours}


@asynccontextmanager
async def running(
    *arguments: str, **settings: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process and where it listens, once it does."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=environment(**settings), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        async with asyncio.timeout(60):
            while not (found := re.search(rb"running on (?:unix )?(\S+)", said)):
                line = await process.stderr.readline()
                assert line, said.decode()
                said += line
        drain = asyncio.create_task(process.stderr.read())
        yield process, found[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await drain


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(60):
        return await process.wait()


@asynccontextmanager
async def ready(url: str) -> AsyncIterator[Caller]:
    async with calling(url) as caller:

        async def is_ready() -> bool:
            return (await caller.client.get("/readyz")).status_code == 200

        await eventually(is_ready, within_s=60, what="readiness")
        yield caller


async def test_drain_ends_holds_and_exits_with_zero(redis_url: str, shard: ScriptedShard) -> None:
    async with (
        running("--port", "0", redis_url=redis_url, sidecar_drain_s=60) as (process, url),
        ready(url) as caller,
    ):
        await caller.ok("reserve", request_id="r1", amount_millicredits=100)
        assert frozen_objects((await caller.client.get("/metrics")).text) > 10_000
        process.send_signal(signal.SIGTERM)

        async def is_draining() -> bool:
            return (await caller.client.get("/readyz")).status_code == 503

        await eventually(is_draining, what="the drain")
        assert problem(await caller.post("reserve", amount_millicredits=1))[1] == "DRAINING"
        answer = await caller.ok("commit", request_id="r1", amount_millicredits=40)
        assert answer["charged_millicredits"] == 40
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
    assert (await shard.account("acme/ann"))[:2] == (FUNDS - 40, 0)


async def test_a_commit_under_way_is_finished(redis_url: str, shard: ScriptedShard) -> None:
    """The signal comes while Redis keeps the commit waiting: it is made, and answered."""
    async with (
        running("--port", "0", redis_url=redis_url, sidecar_drain_s=0) as (process, url),
        ready(url) as caller,
    ):
        await caller.ok("reserve", request_id="r1", amount_millicredits=100)
        await shard.redis.client_pause(10_000, all=False)
        commit = asyncio.create_task(caller.post("commit", request_id="r1", amount_millicredits=7))

        async def is_waiting() -> bool:
            return bool((await shard.redis.info("clients"))["blocked_clients"])

        await eventually(is_waiting, what="the commit in Redis")
        process.send_signal(signal.SIGTERM)

        async def is_closed() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            except ConnectionRefusedError:
                return True
            writer.close()
            return False

        await eventually(is_closed, what="the end of listening")
        await shard.redis.client_unpause()
        assert (await commit).json()["charged_millicredits"] == 7
        assert await ended(process) == 0
    assert (await shard.account("acme/ann"))[:2] == (FUNDS - 7, 0)


async def test_a_unix_socket(redis_url: str, shard: ScriptedShard, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    # A socket needs no key although the address, which is not used, would.
    settings = {"redis_url": redis_url, "sidecar_socket": path, "sidecar_drain_s": 0}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=environment(sidecar_host="0.0.0.0", **settings)
    )
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as client:

            async def is_ready() -> bool:
                if not path.exists():
                    return False
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.ConnectError:
                    return False

            await eventually(is_ready, within_s=60, what="readiness")
            assert path.stat().st_mode & 0o777 == 0o600
            response = await client.post("/v1/charge", content=CHARGE, headers=JSON)
            assert response.json()["state"] == "charged"
        process.terminate()
        assert await ended(process) == 0
        assert not path.exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_starts_before_redis_and_reconnects(valkey_server: ValkeyFactory) -> None:
    server = valkey_server()
    url = server.url
    server.stop()
    async with running("--port", "0", redis_url=url) as (_, where), calling(where) as caller:
        assert (await caller.client.get("/healthz")).status_code == 200
        assert problem(await caller.client.get("/readyz"))[:2] == (503, "UNAVAILABLE")
        server.start()
        redis: Redis = Redis.from_url(server.url)
        assert server.url == url

        async def code() -> str:
            response = await caller.client.get("/readyz")
            return "" if response.status_code == 200 else problem(response)[1]

        async def is_fenced() -> bool:
            return await code() == "FENCED"

        await eventually(is_fenced, what="a shard that is not open")
        shard = ScriptedShard(redis, ShardKeys("tm", 0))
        await shard.open()
        await shard.load("acme/ann", FUNDS)

        async def is_ready() -> bool:
            return await code() == ""

        await eventually(is_ready, what="readiness")
        await caller.ok("charge", amount_millicredits=1)
        await redis.aclose()


async def test_accounts_come_from_postgres_when_it_is_named(
    redis_url: str, sidecar_database_url: str, books: Books, shard: ScriptedShard
) -> None:
    await books.open(total=5000, allocated=3000)
    fields = {"org_id": "org", "amount_millicredits": 1}
    async with (
        running("--port", "0", redis_url=redis_url) as (_, url),
        ready(url) as caller,
    ):
        assert (await caller.refused("charge", **fields))[1] == "ACCOUNT_NOT_FOUND"
    async with (
        running("--port", "0", redis_url=redis_url, database_url=sidecar_database_url) as (_, url),
        ready(url) as caller,
    ):
        assert (await caller.ok("charge", **fields))["available_millicredits"] == 2999


@pytest.fixture
def books(pool: object) -> Books:
    return Books(pool)  # type: ignore[arg-type]  # A pool, as the fixture says.


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--host", "0.0.0.0"], {}, "set TAXIMETER_SIDECAR_KEYS"),
        (["--host", "::"], {}, "set TAXIMETER_SIDECAR_KEYS"),
        (["--host", "example.org"], {}, "set TAXIMETER_SIDECAR_KEYS"),
        ([], {"sidecar_keys": "secret"}, "TAXIMETER_SIDECAR_KEYS: key 1 must be"),
        ([], {"sidecar_port": "x"}, "TAXIMETER_SIDECAR_PORT"),
        ([], {"sidecar_socket_mode": "999"}, "TAXIMETER_SIDECAR_SOCKET_MODE"),
        ([], {"sidecar_socket": "/" + "x" * 120}, "TAXIMETER_SIDECAR_SOCKET"),
        ([], {"sidecar_socket": "/no/such/folder/s"}, "cannot start"),
        ([], {"credits_per_dollar": "-1"}, "TAXIMETER_CREDITS_PER_DOLLAR"),
        ([], {"markup_by_plan": '{"golden": 2}'}, "TAXIMETER_MARKUP_BY_PLAN: must name plans"),
        ([], {"price_file": "/no/such/prices.toml"}, "prices.toml cannot be read"),
    ],
)
def test_it_refuses_to_start(arguments: list[str], settings: dict[str, object], said: str) -> None:
    ended = run_forked("sidecar", *arguments, environment=environment(**settings))
    assert ended.returncode == 1
    assert said in ended.text
    assert "Traceback" not in ended.text
    assert "secret" not in ended.text


async def test_beyond_loopback_with_a_key(redis_url: str, shard: ScriptedShard) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    settings = {"redis_url": redis_url, "sidecar_keys": digest}
    async with running("--host", "0.0.0.0", "--port", "0", **settings) as (_, where):
        url = where.replace("0.0.0.0", "127.0.0.1")
        async with ready(url) as caller:
            assert (await caller.raw("/v1/charge", CHARGE)).status_code == 401
            response = await caller.raw("/v1/charge", CHARGE, Authorization="Bearer k")
            assert response.status_code == 200


async def test_a_port_that_is_taken(redis_url: str, shard: ScriptedShard) -> None:
    async with running("--port", "0", redis_url=redis_url) as (_, url):
        taken = url.rpartition(":")[2]
        ended = await asyncio.to_thread(
            run_forked,
            *("sidecar", "--port", taken),
            environment=environment(redis_url=redis_url),
        )
        assert ended.returncode
        assert "address already in use" in ended.text
        assert "Traceback" not in ended.text


async def test_keys_of_organisations_come_from_postgres(
    redis_url: str, sidecar_database_url: str, books: Books, shard: ScriptedShard
) -> None:
    """With a database it may be reached from elsewhere without keys of its own."""
    await books.open(total=5000, allocated=3000)
    made = make_old_key()
    await books.run(
        "INSERT INTO taximeter.api_keys"
        " (key_id, org_id, name, operations, digest, last_four, created_by, expires_at)"
        " VALUES"
        " ($1, 'org', 'gateway', ARRAY['charge'], $2, 'abcd', 'boss', now() + interval '1 day')",
        made.key_id,
        made.digest,
    )
    body = b'{"org_id":"org","user_id":"ann","amount_millicredits":1}'
    with pytest.raises(ValidationError, match="TAXIMETER_DATABASE_URL"):
        SidecarSettings(sidecar_require_keys=True)
    assert SidecarSettings(sidecar_host="0.0.0.0", database_url=sidecar_database_url).needs_keys
    async with (
        running(
            "--port",
            "0",
            redis_url=redis_url,
            database_url=sidecar_database_url,
            sidecar_require_keys=True,
        ) as (_, url),
        ready(url) as caller,
    ):
        assert (await caller.raw("/v1/charge", body)).status_code == 401
        header = {"Authorization": f"Bearer {made.text}"}
        assert (await caller.raw("/v1/charge", body, **header)).status_code == 200
        assert (await caller.raw("/v1/reserve", body, **header)).status_code == 403
