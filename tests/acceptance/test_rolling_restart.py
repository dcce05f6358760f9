"""A rolling restart of everything under load: a client that repeats its ids sees no failure."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from support.servers import ValkeyFactory
from support.waiting import eventually

from taximeter.api.embedded.machine import free_port
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.local.process import LocalProcess
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.check import check

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(240)]

CALLERS = 3
GRACE_S = 20.0
PATIENCE_S = 40.0


def hears_sigterm(pid: int) -> bool:
    """Whether a process ends in good order: it has a handler of its own."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@dataclass
class Client:
    """Callers that reserve and commit through any of the sidecars, and repeat the id until they
    have an answer.
    """

    urls: list[str]
    committed: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    repeats: int = 0
    stopping: bool = False

    async def call(self, http: httpx.AsyncClient, op: str, **fields: Any) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        said = ""
        while time.monotonic() < deadline:
            try:
                answer = await http.post(f"{random.choice(self.urls)}/v1/{op}", json=fields)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.status_code == 200:
                    return True
                said = answer.text
                if answer.status_code != 503:
                    break
            self.repeats += 1
            await asyncio.sleep(0.05)
        self.failed.append(f"{op} {fields['request_id']}: {said}")
        return False

    async def caller(self, http: httpx.AsyncClient, name: str) -> None:
        number = 0
        while not self.stopping:
            number += 1
            amount = number % 5 + 1
            request = {"org_id": "acme", "user_id": "ann", "request_id": f"{name}-{number}"}
            if await self.call(http, "reserve", **request, amount_millicredits=10) and (
                await self.call(http, "commit", **request, amount_millicredits=amount)
            ):
                self.committed[request["request_id"]] = amount

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(CALLERS):
                tasks.create_task(self.caller(http, f"c{number}"))
            try:
                yield
            finally:
                self.stopping = True

    async def goes_on(self) -> None:
        """Wait until every caller has had a few more answers."""
        wanted = len(self.committed) + 5 * CALLERS

        async def went_on() -> bool:
            return len(self.committed) >= wanted or bool(self.failed)

        await eventually(went_on, within_s=PATIENCE_S, what="traffic")


async def test_everything_is_restarted_and_nobody_notices(
    postgres_server: EmbeddedPostgres, valkey_server: ValkeyFactory, tmp_path: Path
) -> None:
    valkey = valkey_server("--appendfsync", "always")
    settings = {
        "TAXIMETER_DATABASE_URL": postgres_server.url,
        "TAXIMETER_REDIS_URL": valkey.url,
        "TAXIMETER_SIDECAR_DRAIN_S": "1",
    }
    ports = [free_port(), free_port()]
    settlers = [
        LocalProcess(f"settler{n}", ["settler"], settings, tmp_path / f"settler{n}") for n in (0, 1)
    ]
    sidecars = [
        LocalProcess(
            f"sidecar{n}",
            ["sidecar"],
            {**settings, "TAXIMETER_SIDECAR_PORT": str(port)},
            tmp_path / f"sidecar{n}",
        )
        for n, port in enumerate(ports)
    ]
    pool = await asyncpg.create_pool(postgres_server.url, min_size=0)
    redis = Redis.from_url(valkey.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(pool.close)
        await pool.execute(
            "INSERT INTO organizations (id, org_name, slug, created_by)"
            " VALUES ('acme', 'acme', 'acme', 'test')"
        )
        await pool.execute("SELECT add_credits_to_pool('acme', 1000000000, 1.00)")
        await pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 1000000000, 'test')")
        for process in (*settlers, *sidecars):
            process.start()
            stack.callback(process.stop)
        client = Client([f"http://127.0.0.1:{port}" for port in ports])
        async with client.calling():
            await client.goes_on()
            for process in (*sidecars, *settlers):

                async def listens(pid: int = process.pid) -> bool:
                    return hears_sigterm(pid)

                # Another one may have served so far, while this one was still starting.
                await eventually(listens, what=f"{process.name} to hear SIGTERM")
                started = time.monotonic()
                code = await asyncio.to_thread(process.stop, GRACE_S)
                assert code == 0, f"{process.name}: {code}\n{process.log_tail()}"
                assert time.monotonic() - started < GRACE_S
                await client.goes_on()
                process.start()
                await client.goes_on()
            for server in (valkey, postgres_server):
                stop: Callable[[], None] = server.stop
                await asyncio.to_thread(stop)
                await asyncio.to_thread(server.start)
                await client.goes_on()
        assert client.failed == []
        assert client.repeats > 0, "nothing was ever refused: the restarts did not bite"
        await pool.expire_connections()
        stores = Stores(pool, redis)

        async def settled() -> bool:
            rows = await pool.fetchval(
                "SELECT count(*) FROM taximeter.charged_requests WHERE org_id = 'acme'"
            )
            return int(rows) == len(client.committed)

        await eventually(settled, within_s=PATIENCE_S, what="settling")
        charged = dict(
            await pool.fetch("SELECT request_id, amount FROM taximeter.charged_requests")
        )
        assert charged == client.committed
        assert await redis.hlen(stores.keys(0).holds) == 0
        report = await check(stores)
        assert report.holds, [one for one in report.invariants if not one.holds]
