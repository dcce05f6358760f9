"""Puts figures of a process and of the whole system into the words that Prometheus reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.wire.release import build as commit
from taximeter.meter.wire.release import release
from taximeter.settler.books.stores import Pool
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.lag import ShardStatus
from taximeter.settler.status.pauses import Pauses

Families = Callable[[], Iterable[Metric]]

LOOP_EVERY_S: Final = 0.25
KERNEL_EVERY_S: Final = 1.0
_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Exposition:
    """The families of one process, in a registry of its own, and how they are written.

    Every scrape asks `health` first, where there is one: it looks at the stores at most once a
    second and answers also while they are away. Their figures are left out then, and
    `taximeter_store_up` is 0.
    """

    def __init__(self, process: str, health: HealthCheck | None) -> None:
        self.registry = CollectorRegistry()
        self._health = health
        self._pools: dict[str, Pool] = {}
        self._looks: list[Callable[[], Awaitable[None]]] = []
        self._lag = Histogram(
            "taximeter_event_loop_lag_seconds",
            f"How late this process gets to what was due, looked at every {LOOP_EVERY_S} s.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self._pauses = Pauses()
        self.add(self._pauses.families)
        kernel = _Kernel()
        self.look_first(kernel.look)
        self.add(kernel.families)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = InfoMetricFamily(
            "taximeter_build",
            "What runs here.",
            {"version": release(), "build": commit(), "process": process},
        )
        self.add(lambda: [build])
        self.add(self._pool_families)
        if health is not None:
            self.add(lambda: system_families(health))

    def add(self, families: Families) -> None:
        """Write what this function returns, too. It is called at every scrape and must not wait."""
        self.registry.register(_Calls(families))

    def look_first(self, look: Callable[[], Awaitable[None]]) -> None:
        """Wait for this before each scrape. It must answer soon, and not raise."""
        self._looks.append(look)

    def watch_pool(self, name: str, pool: Pool) -> None:
        """Tell how many connections to Postgres this pool has."""
        self._pools[name] = pool

    def watch_redis(self, redis: RoutedRedis) -> None:
        """Tell how many connections this client has, where no meter does."""
        self.add(lambda: redis_families(redis))

    @asynccontextmanager
    async def watching_loop(self) -> AsyncIterator[None]:
        """Look until the block ends how late the event loop is, and how long collections take."""
        with self._pauses.watching():
            task = asyncio.create_task(self._watch_loop())
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def text(self, accept: str) -> tuple[bytes, str]:
        """All families and their content type: OpenMetrics for those whose Accept asks for it.
        Never raises for a store that is away.
        """
        if self._health is not None:
            await self._health.get()
        for look in self._looks:
            await look()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def _watch_loop(self) -> None:
        while True:
            due = time.perf_counter() + LOOP_EVERY_S
            await asyncio.sleep(LOOP_EVERY_S)
            self._lag.observe(max(0.0, time.perf_counter() - due))

    def _pool_families(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "taximeter_postgres_connections",
            "Connections of this process to Postgres, by pool and state; max is what it may have.",
            labels=("pool", "state"),
        )
        for name, pool in self._pools.items():
            size, idle = pool.get_size(), pool.get_idle_size()
            connections.add_metric((name, "used"), size - idle)
            connections.add_metric((name, "idle"), idle)
            connections.add_metric((name, "max"), pool.get_max_size())
        yield connections


def redis_families(redis: RoutedRedis) -> Iterator[Metric]:
    """Connections of a client that is no meter's."""
    connections = GaugeMetricFamily(
        "taximeter_redis_client_connections",
        "Connections of this process to Redis beside those of its meter, which has lanes.",
        labels=("state",),
    )
    for state, number in zip(("used", "idle"), redis.connections, strict=True):
        connections.add_metric((state,), number)
    yield connections


NO_STORE: Final = {"Cache-Control": "no-store"}


def metrics_route(exposition: Exposition) -> web.RouteDef:
    """`GET /metrics`, for an application of aiohttp. It needs no login: nothing in it names
    anybody.
    """

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await exposition.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, **NO_STORE})

    return web.get("/metrics", metrics)


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serve an application until the block ends. Raises OSError when the port is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def system_families(health: HealthCheck) -> Iterator[Metric]:
    """What the last look of `health` found: the same whichever process is asked, so whoever adds
    processes up takes the largest. Nothing before the first look.
    """
    seen = health.seen
    if seen is None:
        return
    up = GaugeMetricFamily(
        "taximeter_store_up", "1 when the store answers this process.", labels=("store",)
    )
    up.add_metric(("postgres",), seen.postgres.status != "down")
    up.add_metric(("redis",), seen.redis.status != "down")
    yield up
    if seen.postgres.status != "down":
        settlers = GaugeMetricFamily(
            "taximeter_settlers", "Settlers, by whether they show signs of life.", labels=("state",)
        )
        settlers.add_metric(("alive",), seen.settler.alive)
        settlers.add_metric(("stopped",), seen.settler.stopped)
        yield settlers
    yield from _shard_families(health.shards_seen)
    if seen.upstream is not None:
        up = GaugeMetricFamily(
            "taximeter_upstream_up",
            "1 when the last answers of the upstream were good.",
            labels=("upstream",),
        )
        for name, word in seen.upstream.upstreams.items():
            up.add_metric((name,), word == "ok")
        yield up
    if seen.prices is not None:
        yield GaugeMetricFamily(
            "taximeter_prices_usable",
            "1 when the price list in force can be read and is not too old.",
            seen.prices.status == "ok",
        )


def _shard_families(shards: Iterable[ShardStatus]) -> Iterator[Metric]:
    def gauge(name: str, what: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"taximeter_{name}", what, labels=("shard",))

    def counter(name: str, what: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"taximeter_{name}", what, labels=("shard",))

    is_open = gauge("shard_open", "1 when the shard takes requests, 0 when it is closed.")
    epoch = gauge("shard_epoch", "Counts how often the shard was made anew from the books.")
    lag = gauge("settlement_lag_seconds", "Age of the oldest event that is not in Postgres yet.")
    unsettled = gauge("unsettled_events", "Events in Redis that are not in Postgres yet.")
    holds = gauge("open_holds", "Holds that were neither committed, released nor ended.")
    unapplied = gauge(
        "unapplied_entries", "Entries of Postgres that are not known to have reached Redis."
    )
    settled = counter("settled_events", "Events booked in Postgres, of this epoch.")
    dead = counter("dead_events", "Events of this epoch that could not be booked.")
    lost = counter("lost_events", "Events of this epoch that Redis lost before they were booked.")
    for shard in shards:
        of = (str(shard.shard),)
        is_open.add_metric(of, shard.redis_seq is not None)
        epoch.add_metric(of, shard.epoch)
        if shard.away is None:
            lag.add_metric(of, shard.unsettled_age_ms / 1000)
            unsettled.add_metric(of, shard.unsettled_events)
            holds.add_metric(of, shard.open_holds)
        unapplied.add_metric(of, shard.unapplied_entries)
        settled.add_metric(of, shard.settled_events)
        dead.add_metric(of, shard.dead_events)
        lost.add_metric(of, shard.lost_events)
    yield from (is_open, epoch, lag, unsettled, holds, unapplied, settled, dead, lost)


class _Kernel:
    """What the kernel says of this process. Its open files are counted one by one, which takes
    milliseconds with ten thousand connections: so in a thread, and once a second at most.
    """

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)
        self._looking = asyncio.Lock()
        self._seen: list[Metric] = []
        self._seen_at = float("-inf")

    async def look(self) -> None:
        """Return when the figures are of the last second."""
        async with self._looking:
            if time.monotonic() - self._seen_at >= KERNEL_EVERY_S:
                self._seen = await asyncio.to_thread(lambda: list(self._collector.collect()))
                self._seen_at = time.monotonic()

    def families(self) -> Iterable[Metric]:
        return self._seen or self._collector.collect()  # Each scrape has looked before.


class _Calls(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return list(self._families())
