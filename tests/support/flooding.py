"""A sidecar or an API with two organisations: one pays for calls, the other has a crowd on many
connections that does one thing after the other to the process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import psutil
from redis.asyncio import Redis

from support.old_keys import make_old_key
from support.processes import Running, running, same_books
from support.provider import Asked, Provider, chat_answer
from support.shard import ScriptedShard
from support.world import CHAT, World
from taximeter.api.access.key_text import make_key
from taximeter.meter.wire.keys import ShardKeys

MEMORY_BYTES_MAX: Final = 400 * 2**20
KEYS: Final = 500
KINDS: Final = ("silent", "slow", "forged keys", "parse bombs", "small bombs")
HANGING: Final = "hanging upstream"


def request(path: str, token: str, body: bytes) -> str:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head + body.decode("latin-1")


@dataclass
class Flood:
    """A crowd that is there. `said` has what it was answered, by status, once it has left."""

    process: asyncio.subprocess.Process
    said: dict[str, float] = field(default_factory=dict)


@dataclass
class Scene:
    """One process of ours and who asks it. `crowds`: the requests of each kind."""

    served: Running
    client: httpx.AsyncClient
    path: str
    headers: dict[str, str]
    rival: dict[str, Any]
    crowds: dict[str, dict[str, Any]]
    number: int = 0

    async def pay(self, **other: Any) -> int:
        """One call of who pays, or of another caller; its status."""
        self.number += 1
        body: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 1}
        body["messages"] = [{"role": "user", "content": "answer"}]
        if self.path != CHAT:
            body = {"org_id": "acme", "user_id": "ann", "request_id": f"p{self.number}"}
            body |= {"amount_millicredits": 1, **other.get("body", {})}
        url, headers = f"{self.served.url}{self.path}", other.get("headers", self.headers)
        return (await self.client.post(url, json=body, headers=headers)).status_code

    async def timed(self, calls: int) -> list[float]:
        """How long each call of who pays takes, in seconds. All of them must be answered."""
        found = []
        for _ in range(calls):
            began = time.perf_counter()
            assert await self.pay() == 200
            found.append(time.perf_counter() - began)
        return found

    @property
    def memory(self) -> int:
        return int(psutil.Process(self.served.process.pid).memory_info().rss)

    @asynccontextmanager
    async def under(self, kind: str, connections: int) -> AsyncIterator[Flood]:
        """The crowd is there, and leaves at the end. Its credentials are good and known."""
        assert await self.pay(**self.rival) == 200
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "support.flood"),
            cwd=Path(__file__).parents[1],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        does = {"requests": [], "drip": "", **self.crowds[kind]}
        port = int(self.served.url.rpartition(":")[2])
        flood = Flood(process)
        try:
            process.stdin.write(
                json.dumps({"port": port, "connections": connections, **does}).encode() + b"\n"
            )
            await process.stdin.drain()
            assert await process.stdout.readline() == b"there\n"
            yield flood
            process.stdin.close()
            flood.said = json.loads(await process.stdout.readline())
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def crowds_of(path: str, rival: str, bombs: list[bytes], small: list[bytes]) -> dict[str, Any]:
    forged = [request(path, make_old_key().text, b"{}") for _ in range(KEYS)]
    return {
        "silent": {},
        "slow": {"drip": "POST / HTTP/1.1\r\nX-A: "},
        "forged keys": {"requests": forged},
        "parse bombs": {"requests": [request(path, rival, one) for one in bombs]},
        "small bombs": {"requests": [request(path, rival, one) for one in small]},
    }


def bombs(size: int) -> list[bytes]:
    """Lists and names without end, which take longest to read."""
    names = b",".join(b'"%x":1' % number for number in range(size // 9))
    return [b'{"a":[' + b",".join([b"[]"] * (size // 3)) + b"]}", b"{" + names + b',"0":1}']


@asynccontextmanager
async def sidecar_scene(
    redis: Redis, redis_url: str, pool: asyncpg.Pool[asyncpg.Record], database_url: str
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
    payer, rival = keys
    crowds = crowds_of("/v1/batch", rival, bombs(900_000), bombs(15_000))
    async with (
        running(
            *("sidecar", "--port", "0"),
            redis_url=redis_url,
            database_url=database_url,
            sidecar_require_keys=1,
        ) as served,
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
    ):
        headers = {"Authorization": f"Bearer {payer}"}
        hostile = {"headers": {"Authorization": f"Bearer {rival}"}}
        hostile["body"] = {"org_id": "rival", "user_id": "eve"}
        yield Scene(served, client, "/v1/charge", headers, hostile, crowds)


async def _script(asked: Asked) -> None:
    if asked.body["messages"][0]["content"] == "hang":
        await asked.gone.wait()
        return
    await asked.answer(chat_answer())


@asynccontextmanager
async def api_scene(world: World, folder: Path) -> AsyncIterator[Scene]:
    await world.funded(credits=90.0)
    await world.funded("eve", org="rival", credits=90.0)
    async with Provider(_script).serving() as provider:
        upstream = {"name": "one", "base_url": provider.url}
        path = folder / "upstreams.json"
        routes = [{"models": ["*"], "targets": [{"upstream": "one"}]}]
        path.write_text(json.dumps({"upstreams": [upstream], "routes": routes}), encoding="utf-8")
        rival = world.token("eve")
        crowds = crowds_of(CHAT, rival, bombs(900_000), bombs(15_000))
        message = {"role": "user", "content": "hang"}
        hang = {"model": "gpt-4o-mini", "messages": [message], "max_tokens": 1}
        crowds[HANGING] = {"requests": [request(CHAT, rival, json.dumps(hang).encode())]}
        settings = {**same_books(world), "upstreams_file": path, "shutdown_grace_s": 0.1}
        del settings["membership_cache_s"]  # As in production: a refusal is no query.
        async with (
            running("api", "--port", "0", **settings) as served,
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
        ):
            hostile = {"headers": {"Authorization": f"Bearer {rival}"}}
            yield Scene(served, client, CHAT, world.auth("ann"), hostile, crowds)
