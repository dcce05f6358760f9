"""Everything that runs: two gateways, two sidecars, two settlers, the API, Valkey and Postgres, and
a proxy on every way between two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis
from support.cluster import Cluster as RedisCluster
from support.proxy import Proxy
from support.waiting import eventually

from chaos.completions import BROKEN, CHUNK_DELAY_S
from chaos.gateway import GATE_HOLD_S, PAUSE_VARIABLE
from chaos.process import Worker
from chaos.settings import Run
from chaos.valkey import FAKETIME, ChaosValkey, moved_by, set_clock
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds
from taximeter.settler.books.stores import Stores

ORGS = ("aurora", "borealis", "cirrus")
USERS = tuple(f"{org}/user-{number}" for org in ORGS for number in range(3))
ON_CREDIT = "delta"
"""An organisation with a credit line in each sidecar; nobody but one fault calls for it."""
ITS_USERS = tuple(f"{ON_CREDIT}/user-{number}" for number in range(3))
LINE = 20_000
"""Millicredits that may be outstanding in each sidecar."""
COMMAND = "taximeter.api"
READY_S = 60.0
WATCH_S = 0.3


@dataclass
class Cluster:
    """The running system. Workers that are in `down` are meant to be down and are left alone."""

    run: Run
    folder: Path
    valkey: ChaosValkey
    arq: EmbeddedValkey
    postgres: EmbeddedPostgres
    api_port: int
    links: dict[str, Proxy] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    came_back: int = 0
    nodes: RedisCluster | None = None
    """What stands in for `valkey` in a run on a cluster; nobody has a proxy on the way there."""
    standby: EmbeddedPostgres | None = None
    """The Postgres, beside `postgres`, that runs while a fault needs one."""
    replica: ChaosValkey | None = None
    replication: Proxy | None = None

    @property
    def api_url(self) -> str:
        return f"http://{LOOPBACK}:{self.api_port}"

    @property
    def histories(self) -> list[Path]:
        return [self.folder / f"{name}.jsonl" for name in ("gateway-1", "gateway-2")]

    @property
    def faults_history(self) -> Path:
        """What faults do themselves, as callers."""
        return self.folder / "faults.jsonl"

    @property
    def embedded_history(self) -> Path:
        return self.folder / "embedded-1.jsonl"

    @property
    def completions_history(self) -> Path:
        return self.folder / "completions-1.jsonl"

    @property
    def all_histories(self) -> list[Path]:
        more = [self.faults_history, self.embedded_history, self.completions_history]
        return [*self.histories, *more]

    @property
    def kept_charges(self) -> list[Path]:
        """Where the API keeps what it could not charge yet."""
        return list((self.folder / "charges").glob("*.jsonl"))

    def journal(self, sidecar: str) -> Path:
        """Where a sidecar keeps what it has admitted on credit, in a folder of its own."""
        return self.folder / f"{sidecar}-credit" / "journal"

    @asynccontextmanager
    async def redis(self, server: ChaosValkey | None = None) -> AsyncIterator[Redis]:
        """A connection to Valkey that no fault of the network touches."""
        if self.nodes is not None:
            seeds = read_seeds(self.nodes.url(*self.nodes.nodes), socket_timeout=5.0)
            async with RoutedRedis(seeds) as client:
                yield client
            return
        url = (server or self.valkey).url
        async with Redis.from_url(url, socket_timeout=5.0) as client:
            yield client

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        """Both stores, past the proxies."""
        async with (
            self.redis() as redis,
            asyncpg.create_pool(self.postgres.url, min_size=1, max_size=4) as pool,
        ):
            yield Stores(pool, redis)

    async def database(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection to Postgres, past the proxies. The caller closes it."""
        return await asyncpg.connect(self.postgres.url, timeout=10.0, command_timeout=20.0)

    def links_named(self, part: str) -> list[Proxy]:
        """The links whose name has `part` in it."""
        return [proxy for name, proxy in self.links.items() if part in name]

    def point_to(self, server: ChaosValkey) -> None:
        """Let every link to Valkey lead to that server from now on."""
        self.valkey = server
        for proxy in self.links_named(">redis"):
            proxy.target = (LOOPBACK, server.port)
            proxy.reset_all()

    def point_spare_to(self, server: EmbeddedPostgres) -> None:
        """Let the link of each process to a second Postgres, which none uses, lead to this one."""
        for name in {name.partition(">")[0] for name in self.links if ">postgres" in name}:
            links = [self.links[f"{name}>postgres"], self.links[f"{name}>postgres-2"]]
            spare = next(link for link in links if link.target[1] != self.postgres.port)
            spare.target = (LOOPBACK, server.port)

    def reset_postgres(self) -> None:
        """End every connection to any Postgres."""
        for link in self.links_named(">postgres"):
            link.reset_all()

    @asynccontextmanager
    async def without(self, kind: str) -> AsyncIterator[None]:
        """Kill all workers of a kind; they are started again afterwards."""
        names = {name for name in self.workers if name.startswith(kind)}
        self.down |= names
        try:
            await asyncio.gather(*(asyncio.to_thread(self.workers[name].kill) for name in names))
            yield
        finally:
            self.down -= names

    async def watch(self) -> None:
        """Start again what ends, as a service manager does, until cancelled."""
        while True:
            for name, worker in self.workers.items():
                if name not in self.down and worker.ensure():
                    self.came_back += 1
            await asyncio.sleep(WATCH_S)


@asynccontextmanager
async def running(run: Run, folder: Path) -> AsyncIterator[Cluster]:
    """Start everything but the gateways; stop all of it at the end."""
    valkey = ChaosValkey(folder / "valkey", run.fsync, run.valkey_args)
    arq = EmbeddedValkey(folder / "arq", append_only=False)
    postgres = EmbeddedPostgres(folder / "postgres")
    cluster = Cluster(run, folder, valkey, arq, postgres, free_port())
    if run.on_cluster:
        cluster.nodes = RedisCluster(folder / "nodes")
    redis = cluster.nodes or valkey
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop_postgres, cluster, postgres)
        stack.push_async_callback(asyncio.to_thread, arq.stop)
        stack.callback(lambda: (cluster.nodes.stop if cluster.nodes else cluster.valkey.kill)())
        await asyncio.gather(
            *(asyncio.to_thread(server.start) for server in (redis, arq, postgres))
        )
        for node in cluster.nodes.nodes if cluster.nodes else ():
            node.ask("CONFIG", "SET", "appendfsync", run.fsync)
        await asyncio.to_thread(migrate, postgres.url)
        if run.replica:
            stack.callback(lambda: cluster.replica.kill() if cluster.replica else None)
            await add_replica(cluster, stack)
        for worker in await _workers(cluster, stack):
            cluster.workers[worker.name] = worker
            stack.callback(worker.kill)
            if worker.name not in cluster.down:
                worker.start()
        watching = asyncio.create_task(cluster.watch())
        stack.push_async_callback(_cancel, watching)
        await until_ready(cluster)
        yield cluster


async def _stop_postgres(cluster: Cluster, first: EmbeddedPostgres) -> None:
    for server in (cluster.postgres, cluster.standby, first):
        if server is not None:
            await asyncio.to_thread(server.stop)


async def add_replica(cluster: Cluster, stack: AsyncExitStack | None = None) -> None:
    """Give Valkey a replica, and wait until it has everything."""
    if cluster.replication is None:
        assert stack is not None
        cluster.replication = await stack.enter_async_context(Proxy(cluster.valkey.url))
    cluster.replication.target = (LOOPBACK, cluster.valkey.port)
    number = len(list(cluster.folder.glob("replica-*")))
    folder = cluster.folder / f"replica-{number}"
    port = str(cluster.replication.port)
    cluster.replica = ChaosValkey(folder, cluster.run.fsync, cluster.run.valkey_args)
    await asyncio.to_thread(cluster.replica.start)
    async with Redis.from_url(cluster.replica.url) as client:
        await client.execute_command("REPLICAOF", LOOPBACK, port)

        async def is_up() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await eventually(is_up, within_s=READY_S, what="the replica following its primary")


async def _workers(cluster: Cluster, stack: AsyncExitStack) -> list[Worker]:
    folder, run = cluster.folder, cluster.run
    nodes, database_url = cluster.nodes, cluster.postgres.url
    redis_url = nodes.url(*nodes.nodes) if nodes else cluster.valkey.url
    upstream = free_port()
    workers = []

    async def link(name: str, url: str) -> str:
        if nodes is not None and url == redis_url:
            return url
        cluster.links[name] = await stack.enter_async_context(Proxy(url))
        return cluster.links[name].url

    async def postgres_of(name: str) -> str:
        first = await link(f"{name}>postgres", database_url)
        if not run.promotes_postgres:
            return first
        nobody = database_url.replace(f":{cluster.postgres.port}/", f":{free_port()}/")
        second = urlsplit(await link(f"{name}>postgres-2", nobody)).netloc.rpartition("@")[2]
        place = urlsplit(first).netloc.rpartition("@")[2]
        return first.replace(place, f"{place},{second}")

    async def environment(name: str) -> dict[str, str]:
        moved: dict[str, str] = {}
        if run.moves_clocks and FAKETIME is not None:
            clock = folder / f"{name}.clock"
            set_clock(clock, 0.0)
            moved = {**moved_by(clock), "FAKETIME_CACHE_DURATION": "1"}
        return {
            **moved,
            "TAXIMETER_COMMIT_WAIT": run.commit_wait,
            "TAXIMETER_REDIS_URL": await link(f"{name}>redis", redis_url),
            "TAXIMETER_DATABASE_URL": await postgres_of(name),
            "TAXIMETER_ARQ_REDIS_URL": await link(f"{name}>arq", cluster.arq.url),
            "TAXIMETER_DATA_DIR": str(folder),
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_UPSTREAM_BASE_URL": f"http://{LOOPBACK}:{upstream}/v1",
            "TAXIMETER_HOLD_TTL_S": "4",
            "TAXIMETER_SHARDS": str(run.shards),
            "TAXIMETER_OUTCOME_WINDOW_S": str(run.outcome_window_s),
            "TAXIMETER_SIDECAR_DRAIN_S": "1",
            "TAXIMETER_SIDECAR_GRACE_S": "3",
            "TAXIMETER_FORWARD_AUTH_HOLD_S": str(GATE_HOLD_S),
            "TAXIMETER_SHUTDOWN_GRACE_S": "3",
            "TAXIMETER_REDIS_TIMEOUT_S": "2",
            # Limits are tested elsewhere; here they would only keep the load away.
            "TAXIMETER_RATE_LIMITS": "0",
        }

    for number in (1, 2):
        name = f"settler-{number}"
        workers.append(Worker(name, COMMAND, ["settler"], await environment(name), folder))
    arguments = ["api", "--host", LOOPBACK, "--port", str(cluster.api_port)]
    workers.append(Worker("api", COMMAND, arguments, await environment("api"), folder))
    ports = [free_port(), free_port()]
    for number, port in enumerate(ports, 1):
        name = f"sidecar-{number}"
        arguments = ["sidecar", "--port", str(port)]
        credit = {
            "TAXIMETER_CREDIT_LINES": f"{ON_CREDIT}={LINE // 1000}",
            "TAXIMETER_CREDIT_JOURNAL": str(cluster.journal(name)),
        }
        workers.append(Worker(name, COMMAND, arguments, await environment(name) | credit, folder))
    pause = {PAUSE_VARIABLE: str(run.pause_s)}
    for number, history in enumerate(cluster.histories, 1):
        name = f"gateway-{number}"
        urls = [
            await link(f"{name}>sidecar-{place}", f"http://{LOOPBACK}:{port}")
            for place, port in enumerate(ports, 1)
        ]
        arguments = [name, str(run.seed), str(history), ",".join(USERS), *urls]
        workers.append(Worker(name, "chaos.gateway", arguments, pause, folder))
        cluster.down.add(name)
    if run.completes:
        workers += _completing(cluster, upstream)
        cluster.down.add("completions-1")
    name = "embedded-1"
    url = await link(f"{name}>redis", redis_url)
    history = str(cluster.embedded_history)
    arguments = [name, str(run.seed), history, ",".join(USERS), url]
    workers.append(Worker(name, "chaos.embedded", arguments, pause, folder))
    cluster.down.add(name)
    # The gateways start when there is something to spend.
    return workers


def _completing(cluster: Cluster, upstream: int) -> list[Worker]:
    """The provider, and who asks for what it sells."""
    run, folder = cluster.run, cluster.folder
    rates = [f"--failure-rate={BROKEN}", f"--break-rate={BROKEN}", f"--chunk-delay={CHUNK_DELAY_S}"]
    provider = ["simulator", "--port", str(upstream), *rates]
    name, history = "completions-1", str(cluster.completions_history)
    asking = [name, str(run.seed), history, ",".join(USERS), cluster.api_url, str(folder)]
    return [
        Worker("provider", COMMAND, provider, {}, folder),
        Worker(name, "chaos.completions", asking, {}, folder),
    ]


async def until_ready(cluster: Cluster) -> None:
    """Return when the shards are open. Raises TimeoutError."""
    deadline = time.monotonic() + READY_S
    async with cluster.redis() as redis:
        while not await redis.hget("{tm:0}:meta", "epoch"):
            if time.monotonic() > deadline:
                raise TimeoutError(cluster.workers["settler-1"].log()[-2000:])
            await asyncio.sleep(0.05)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
