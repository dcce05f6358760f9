"""The LLM route as it is run: API, settler and simulated upstream, each a process, on books of a
run.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx

from bench.harness import BenchFailed
from bench.http_load import post
from bench.live import LiveShards
from bench.servers import Servers
from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.demo.admin import Admin
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.local.process import LocalProcess

ORG_ID: Final = "bench-llm"
USERS: Final = 20
CREDITS: Final = 100_000
READY_S_MAX: Final = 60.0
TOKEN_TTL_S: Final = 3_600

Maker = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running system with members who have credits. `redis` is a client of its live side."""

    api_url: str
    upstream_url: str
    api_pid: int
    settler: LocalProcess
    redis: Any
    tokens: list[str]

    def routed(self, *, stream: bool) -> list[Maker]:
        """Requests to the route, one maker a user."""
        url = f"{self.api_url}/v1/chat/completions"
        return [
            constant(post(url, chat(stream), {"Authorization": f"Bearer {token}"}))
            for token in self.tokens
        ]

    def direct(self, *, stream: bool) -> list[Maker]:
        """The same requests to the upstream."""
        return [constant(post(f"{self.upstream_url}/chat/completions", chat(stream)))]


def constant(request: bytes) -> Maker:
    """A maker that always makes the same request."""
    return lambda: request


def chat(stream: bool) -> bytes:
    """A short conversation; its answer is short as well, so that what is measured is not tokens."""
    body: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "What does a budget decision cost?"}],
        "max_tokens": 24,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


@asynccontextmanager
async def running_gateway(
    servers: Servers, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """The processes of `taximeter dev` on fresh stores, until the block ends. `settings` are more
    variables of theirs, such as another upstream than the simulated one.
    """
    async with AsyncExitStack() as stack:
        redis_url, redis = await stack.enter_async_context(servers.redis())
        live = LiveShards(redis, servers.prefix, ())
        await live.remove()
        stack.push_async_callback(live.remove)
        database_url = await stack.enter_async_context(servers.database())
        arq_url = stack.enter_context(servers.arq_url())
        api_port, upstream_port = free_port(), free_port()
        api_url = f"http://{LOOPBACK}:{api_port}"
        upstream_url = f"http://{LOOPBACK}:{upstream_port}/v1"
        environment = {
            "TAXIMETER_REDIS_URL": redis_url,
            "TAXIMETER_ARQ_REDIS_URL": arq_url,
            "TAXIMETER_DATABASE_URL": database_url,
            "TAXIMETER_KEY_PREFIX": servers.prefix,
            "TAXIMETER_ARQ_QUEUE": f"taximeter:{servers.prefix}",
            "TAXIMETER_UPSTREAM_BASE_URL": upstream_url,
            "TAXIMETER_UPSTREAM_NAME": "simulated",
            "TAXIMETER_DATA_DIR": str(servers.data_dir),
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_RATE_LIMITS": "0",
            **(settings or {}),
        }
        processes = []
        for name, arguments in (
            ("simulator", ["simulator", "--port", str(upstream_port)]),
            ("settler", ["settler"]),
            ("api", ["api", "--host", LOOPBACK, "--port", str(api_port)]),
        ):
            log_path = servers.data_dir / "logs" / f"{name}.log"
            process = LocalProcess(name, arguments, environment, log_path)
            process.start()
            stack.callback(process.stop)
            processes.append(process)
        await wait_until_up(f"{api_url}/api/v1/system/status", *processes)
        await wait_until_up(f"{upstream_url}/models", *processes)
        key = load_dev_key(servers.data_dir)
        users = [f"bench-user-{number}" for number in range(USERS)]
        root = key.mint(users[0], ttl_s=TOKEN_TTL_S, roles=("system_admin",))
        async with httpx.AsyncClient(base_url=api_url, timeout=30.0) as client:
            admin = Admin(client, root)
            await admin.subscribe(ORG_ID, ORG_ID, Decimal(CREDITS), users[0])
            for user in users[1:]:
                await admin.add_member(ORG_ID, user)
            for user in users:
                await admin.allocate(ORG_ID, user, Decimal(CREDITS // USERS))
        tokens = [key.mint(user, ttl_s=TOKEN_TTL_S) for user in users]
        yield Gateway(api_url, upstream_url, processes[2].pid, processes[1], redis, tokens)


async def wait_until_up(url: str, *processes: LocalProcess) -> None:
    """Until a GET answers 200; raises BenchFailed, or ProcessFailed when one of them has ended."""
    end = time.monotonic() + READY_S_MAX
    async with httpx.AsyncClient(timeout=5.0) as client:
        while time.monotonic() < end:
            for process in processes:
                process.check_alive()
            try:
                if (await client.get(url)).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise BenchFailed(f"{url} did not answer within {READY_S_MAX:.0f} s")
