"""Target 4: reserve through the sidecar, beside servers of the same kind that do nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Final
from urllib.parse import urlsplit

from bench import echo
from bench.child_modules import spawn_module
from bench.gateway import wait_until_up
from bench.harness import BenchFailed, Figure, Side, Target, take_turns
from bench.live import LiveShards, make_accounts
from bench.peers import HELD
from bench.servers import Servers
from bench.wrk import generator, post_rate
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.local.process import LocalProcess

CONNECTIONS: Final = 50
OVER_ASGI, OVER_FASTAPI = 0.7, 3.0
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 15.0


async def run(servers: Servers) -> list[Figure]:
    """The same body to all three, each a process of its own; every answer opens a hold."""
    scale = servers.scale
    accounts = make_accounts(1, 1)
    ((org_id, user_id),) = accounts
    body = json.dumps({"org_id": org_id, "user_id": user_id, "amount_millicredits": HELD}).encode()
    async with servers.redis() as (redis_url, redis):
        live = LiveShards(redis, servers.prefix, accounts)
        await live.reset()
        with ExitStack() as stack:
            asgi = stack.enter_context(_echo("asgi", servers.data_dir))
            fastapi = stack.enter_context(_echo("fastapi", servers.data_dir))
            port = free_port()
            environment = {
                "TAXIMETER_REDIS_URL": redis_url,
                "TAXIMETER_KEY_PREFIX": servers.prefix,
                "TAXIMETER_SIDECAR_DRAIN_S": "0",
            }
            log_path = servers.data_dir / "logs" / "sidecar.log"
            process = LocalProcess(
                "sidecar", ["sidecar", "--port", str(port)], environment, log_path
            )
            process.start()
            stack.callback(process.stop)
            await wait_until_up(f"http://{LOOPBACK}:{port}/readyz", process)
            await asyncio.gather(_until_it_listens(asgi), _until_it_listens(fastapi))
            seen = await take_turns(
                {
                    "fastapi": _rate(f"{fastapi}{echo.PATH}", body),
                    "asgi": _rate(f"{asgi}{echo.PATH}", body),
                    "ours": _reserve_rate(f"http://{LOOPBACK}:{port}{echo.PATH}", body, live),
                },
                rounds=scale.rounds,
                seconds=scale.round_s,
                warm_up_s=scale.warm_up_s,
            )
        await live.remove()
    title = f"reserve over HTTP, {CONNECTIONS} connections, one process"
    return [
        Figure(
            f"sidecar_over_{name}",
            title,
            "/s",
            seen["ours"],
            seen[name],
            f"{peer} echo, same server",
            Target(bound, "at least"),
            note=f"load from {generator()}",
            number=4,
        )
        for name, peer, bound in (
            ("asgi", "plain ASGI", OVER_ASGI),
            ("fastapi", "FastAPI", OVER_FASTAPI),
        )
    ]


def _rate(url: str, body: bytes) -> Side:
    """Answers a second."""

    async def side(seconds: float) -> float:
        return (await post_rate(url, body, connections=CONNECTIONS, seconds=seconds))[1]

    return side


def _reserve_rate(url: str, body: bytes, live: LiveShards) -> Side:
    """The same, from an empty shard, with a proof that every answer opened a hold."""

    async def side(seconds: float) -> float:
        await live.reset()
        done, rate = await post_rate(url, body, connections=CONNECTIONS, seconds=seconds)
        holds = int(await live.redis.hlen(live.keys(0).holds))
        if not done <= holds <= done + CONNECTIONS:
            raise BenchFailed(f"{done} reserves were answered, {holds} holds are open")
        return rate

    return side


async def _until_it_listens(url: str) -> None:
    parts = urlsplit(url)
    end = time.monotonic() + START_S_MAX
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except ConnectionError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise BenchFailed(f"{url} did not answer within {START_S_MAX:.0f} s")


@contextmanager
def _echo(kind: str, data_dir: Path) -> Iterator[str]:
    """An echo server as a process of its own; its URL."""
    port = free_port()
    log_path = data_dir / "logs" / f"echo-{kind}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        child = spawn_module(echo, kind, port, log=log)
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        child.send_signal(SIGTERM)
        child.wait(STOP_S_MAX)
