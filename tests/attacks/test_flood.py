"""Crowds without credits against a process that serves somebody with credits: every call of theirs
is answered, and memory stays below a bound. Nothing here is timed against the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from redis.asyncio import Redis
from support.hostile import Hostile
from support.old_keys import make_old_key
from support.processes import Running, running
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.api.key_text import make_key
from taximeter.meter.keys import ShardKeys

HOSTILE = 500
CALLS = 60
MEMORY_BYTES_MAX = 300 * 2**20
JSON = {"Content-Type": "application/json"}
STOPS_WITHIN_S = 60.0
"""The promise is three seconds, and api/test_keys.py shows by a clock of its own that nothing is
believed for longer; this is what a busy machine may add. What is not noticed takes an hour.
"""


@dataclass
class Scene:
    """A sidecar, and the keys of two organisations."""

    served: Running
    pool: asyncpg.Pool[asyncpg.Record]
    payer: str
    rival: str

    async def pay(self, number: int) -> int:
        async with httpx.AsyncClient(base_url=self.served.url, timeout=60, trust_env=False) as one:
            body = {"org_id": "acme", "user_id": "ann", "request_id": f"p{number}"}
            answer = await one.post(
                "/v1/charge",
                json={**body, "amount_millicredits": 1},
                headers={"Authorization": f"Bearer {self.payer}"},
            )
            return answer.status_code

    @property
    def memory(self) -> int:
        return int(psutil.Process(self.served.process.pid).memory_info().rss)


@pytest.fixture
async def scene(
    redis: Redis, redis_url: str, pool: asyncpg.Pool[asyncpg.Record], sidecar_database_url: str
) -> AsyncIterator[Scene]:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    for account in ("acme/ann", "rival/eve"):
        await shard.load(account, 10**9)
    keys = []
    seal = await pool.fetchval("SELECT secret FROM taximeter.key_seal")
    # With a key of before there were seals, others of its kind that are made up are looked up too.
    for org_id, made in (("acme", make_key(seal)), ("rival", make_old_key())):
        await pool.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ($1, $1, $1, 'a')",
            org_id,
        )
        await pool.execute(
            "INSERT INTO taximeter.api_keys (key_id, org_id, name, operations, digest, last_four,"
            " created_by, expires_at, sealed) VALUES ($1, $2, 'k', ARRAY['charge', 'touch'], $3,"
            " $4, 'a', now() + interval '1 day', $5)",
            *(made.key_id, org_id, made.digest, made.text[-4:], org_id == "acme"),
        )
        keys.append(made.text)
    async with running(
        *("sidecar", "--port", "0"),
        redis_url=redis_url,
        database_url=sidecar_database_url,
        sidecar_require_keys=1,
    ) as served:
        yield Scene(served, pool, *keys)


async def silent(scene: Scene, crowd: Hostile) -> None:
    await crowd.open(HOSTILE)


async def slow(scene: Scene, crowd: Hostile) -> None:
    await crowd.open(HOSTILE, b"POST /v1/charge HTTP/1.1\r\nHost: localhost\r\nX-A: ")


async def _again(scene: Scene, send: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> None:
    async with httpx.AsyncClient(base_url=scene.served.url, timeout=60, trust_env=False) as one:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await send(one)


async def forged_keys(scene: Scene, crowd: Hostile) -> None:
    async def send(one: httpx.AsyncClient) -> None:
        key = {"Authorization": f"Bearer {make_old_key().text}"}  # Its checksum is right.
        await one.get("/v1/balance?org_id=acme&user_id=ann", headers=key)

    await asyncio.gather(*(_again(scene, send) for _ in range(50)))


async def parse_bombs(scene: Scene, crowd: Hostile) -> None:
    bombs = [
        b'{"a":[' + b",".join([b"[]"] * 300_000) + b"]}",
        b"{" + b",".join(b'"%x":1' % number for number in range(100_000)) + b',"0":1}',
        json.dumps({"operations": [{"op": "touch"}] * 500}).encode(),
    ]

    async def send(one: httpx.AsyncClient) -> None:
        for bomb in bombs:
            headers = {**JSON, "Authorization": f"Bearer {scene.rival}"}
            await one.post("/v1/batch", content=bomb, headers=headers)

    await asyncio.gather(*(_again(scene, send) for _ in range(5)))


@contextlib.asynccontextmanager
async def under(scene: Scene, attack: Callable[[Scene, Hostile], Awaitable[None]]) -> Any:
    crowd = Hostile(scene.served.url)
    attacking = asyncio.create_task(attack(scene, crowd))  # type: ignore[arg-type]
    try:
        yield
    finally:
        attacking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attacking
        crowd.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("attack", [silent, slow, forged_keys, parse_bombs])
async def test_a_paying_user_is_served(
    scene: Scene, attack: Callable[[Scene, Hostile], Awaitable[None]]
) -> None:
    assert await scene.pay(0) == 200
    async with under(scene, attack):
        statuses = [await scene.pay(number) for number in range(1, CALLS)]
        assert statuses == [200] * (CALLS - 1)
        assert scene.memory < MEMORY_BYTES_MAX
    assert scene.served.process.returncode is None


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_revoked_key_stops_while_others_are_made_up(scene: Scene) -> None:
    assert await scene.pay(0) == 200
    async with under(scene, forged_keys):
        assert await scene.pay(1) == 200
        await scene.pool.execute(
            "UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = 'a'"
            " WHERE org_id = 'acme'"
        )
        numbers = iter(range(2, 10_000))

        async def is_refused() -> bool:
            return await scene.pay(next(numbers)) == 401

        await eventually(is_refused, within_s=STOPS_WITHIN_S, what="the end of the key")
