"""Runs the settler: the loops that must not be late, and arq for what may.

Nothing here goes by the clock of the machine: loops have intervals of the monotonic clock, days and
deadlines come from Postgres, and the jobs of arq are due as soon as they are queued. Losing arq's
Redis, or running twice, changes no figure anywhere.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import structlog
from arq.connections import ArqRedis
from arq.worker import Function, Worker, func
from redis.exceptions import RedisError

from taximeter.meter.places.places import ClusterPlaces, find_places
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.wire.errors import StoreError
from taximeter.settler.books.connection_pools import BoundedPool, make_pool
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import is_away, open_stores
from taximeter.settler.books.timelines import Timelines
from taximeter.settler.notices.running import delivering
from taximeter.settler.proof.seals import STATEMENT_TIMEOUT_S
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.money import MoneyLook
from taximeter.settler.status.tracing import tracing_of
from taximeter.settler.worker import checking
from taximeter.settler.worker.health_http import serving
from taximeter.settler.worker.heartbeat import (
    BEAT_EVERY_S,
    CLOCK_EVERY_S,
    Heartbeat,
    session_name,
    settler_name,
)
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import Bell, Loop, run_loops
from taximeter.settler.worker.work_metrics import WorkMetrics, settler_exposition

NOTICES_EVERY_S: Final = 1.0
_POLL_S: Final = 0.1
_RESTART_FIRST_S: Final = 0.2
_RESTART_MAX_S: Final = 5.0
_START_PAUSE_S: Final = 0.5
_HEART_TIMEOUT_S: Final = 2.0
_LONG_AGO: Final = datetime(1970, 1, 2, tzinfo=UTC)
"""When the jobs of arq are due: before now by any clock, so that none waits for a wrong one."""

log = structlog.get_logger("taximeter.settler")


def serialize(job: dict[str, Any]) -> bytes:
    """Jobs as JSON: arq's default would let whoever can write to its Redis run code here."""
    return json.dumps(job, default=str).encode()


def deserialize(data: bytes) -> dict[str, Any]:
    """The opposite. Raises ValueError for anything that is not JSON."""
    job: dict[str, Any] = json.loads(data)
    return job


async def run_worker(
    settings: SettlerSettings, when_started: Callable[[], object] | None = None
) -> None:
    """Work until SIGTERM or SIGINT; rounds that run then get `shutdown_grace_s` to finish.
    `when_started` is called before the first round.

    A store that is away, at the start or later, is waited for, and so is arq's Redis. Raises
    ShardCountMismatch, StoreError for a Redis that must not be used, UnsafeDatabase for such a
    Postgres, and other asyncpg errors when it answers and refuses us.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Ours and not arq's: a signal must also count before its worker is there, and between two of
    # them.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        activity, name, timelines = LoopActivity(), settler_name(), Timelines()
        stores = await stack.enter_async_context(
            open_stores(settings, name=session_name(name), size_min=0, timelines=timelines)
        )
        metrics = WorkMetrics()
        tracing = await stack.enter_async_context(tracing_of(settings, "settler"))
        check_stores = None
        if settings.check_every_s:
            check_stores = replace(
                stores, pool=await stack.enter_async_context(_check_pool(settings, timelines))
            )
        settler = Settler(
            stores,
            settings,
            activity=activity,
            metrics=metrics,
            booked=None if tracing is None else tracing.settled,
            check_stores=check_stores,
        )
        health = HealthCheck(stores)
        stack.push_async_callback(health.aclose)
        money = MoneyLook(stores.pool, settings.metrics_organizations)
        stack.push_async_callback(money.aclose)
        exposition = settler_exposition(health, metrics, activity, money)
        exposition.watch_pool("settler", stores.pool)
        exposition.watch_redis(stores.redis)
        if tracing is not None:
            exposition.add(tracing.families)
        await stack.enter_async_context(exposition.watching_loop())
        await stack.enter_async_context(
            serving(settings.settler_host, settings.settler_port, health, activity, exposition)
        )
        if not await _start(settler, stop):
            return
        bell = Bell()
        _ring_on_failover(stores.redis, bell)
        heart = await stack.enter_async_context(
            _heart(settings, stores.redis, activity, name, bell, timelines)
        )
        deliverer = await stack.enter_async_context(
            delivering(settings, timelines, metrics.delivered, lambda: settler.has_found_redis)
        )
        loops = [
            Loop("heart", heart.beat, BEAT_EVERY_S, _HEART_TIMEOUT_S),
            Loop("clock", heart.compare_clocks, CLOCK_EVERY_S, settings.redis_timeout_s * 2),
            *settler.loops(),
        ]
        if deliverer is not None:
            loops.append(Loop("notices", deliverer.round, NOTICES_EVERY_S, settings.tick_timeout_s))
        if when_started is not None:
            when_started()
        _, refusal = await asyncio.gather(
            run_loops(loops, activity, stop, grace_s=settings.shutdown_grace_s, bell=bell),
            _keep_arq(settler, settings, activity, stop),
        )
        await settler.end()
        if refusal is not None:
            raise refusal
    log.info("stopped")


def _check_pool(settings: SettlerSettings, timelines: Timelines) -> BoundedPool:
    """What looks at the books: none of what must not be late waits for one of these."""
    return make_pool(
        settings.database_url,
        size_max=checking.CONNECTIONS,
        command_timeout_s=STATEMENT_TIMEOUT_S,
        wait_s=settings.database_timeout_s,
        accept_loss=settings.database_durability == "none",
        timelines=timelines,
        server_settings={"application_name": "taximeter-settler-check"},
    )


def _ring_on_failover(redis: RoutedRedis, bell: Bell) -> None:
    """A node that is elected is guarded at once, and not with the next round."""
    primaries: set[str] = set()

    def look() -> None:
        nonlocal primaries
        places = redis.known
        nodes = places.nodes() if isinstance(places, ClusterPlaces) else {}
        now = {node.name for node, has_slots in nodes.items() if has_slots}
        if primaries and now != primaries:
            bell.ring()
        primaries = now

    redis.tell_of_moves(look)
    look()


async def _start(settler: Settler, stop: asyncio.Event) -> bool:
    """Find or make the shards, as soon as Postgres is there; False when it is to stop before."""
    said = ""
    while not stop.is_set():
        try:
            await settler.start()
        except Exception as error:
            if not is_away(error):
                raise
            if (reason := type(error).__name__) != said:
                said = reason
                log.warning("waiting", postgres=reason, reason=str(error)[:200])
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _START_PAUSE_S)
        else:
            return True
    return False


@asynccontextmanager
async def _heart(
    settings: SettlerSettings,
    redis: Any,
    activity: LoopActivity,
    name: str,
    bell: Bell,
    timelines: Timelines,
) -> AsyncIterator[Heartbeat]:
    """The heart on a connection of its own; at the end its beats are taken away."""
    pool = make_pool(
        settings.database_url,
        size_max=1,
        command_timeout_s=_HEART_TIMEOUT_S,
        wait_s=_HEART_TIMEOUT_S,
        accept_loss=True,  # It writes nothing that could be lost.
        timelines=timelines,
        server_settings={"application_name": "taximeter-settler-heart"},
    )
    async with pool:
        heart = Heartbeat(pool, redis, activity, name, bell)
        yield heart
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await heart.stop()


async def _keep_arq(
    settler: Settler, settings: SettlerSettings, activity: LoopActivity, stop: asyncio.Event
) -> StoreError | None:
    """One arq worker after the other until `stop` is set; its Redis may come and go. Sets it, and
    says why, when that is one which arq cannot use.
    """
    loop = asyncio.get_running_loop()
    pause_s = _RESTART_FIRST_S
    for job in jobs_of(settler, settings):
        activity.expect(job.function.name, job.every_s)
    while not stop.is_set():
        started = loop.time()
        try:
            async with _scheduler_pool(settings) as pool:
                worker = make_worker(settler, settings, activity, pool)
                await _work(worker, stop, settings.shutdown_grace_s)
        except StoreError as error:
            stop.set()
            return error
        except (RedisError, OSError) as error:
            if loop.time() - started > _RESTART_MAX_S:
                pause_s = _RESTART_FIRST_S
            log.error("scheduler", failed=type(error).__name__, retry_in_s=pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            pause_s = min(_RESTART_MAX_S, pause_s * 2)
    return None


@asynccontextmanager
async def _scheduler_pool(settings: SettlerSettings) -> AsyncIterator[ArqRedis]:
    """What arq uses: connections of ours, which find a primary behind Sentinel and can be
    cancelled. Raises StoreError for a cluster, redis errors.
    """
    seeds = read_seeds(
        settings.arq_redis_url or settings.redis_url,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
    )
    places = await find_places(seeds)
    try:
        if isinstance(places, ClusterPlaces):
            raise StoreError(
                "arq, which carries what may be late, cannot use a cluster: set "
                "TAXIMETER_ARQ_REDIS_URL to a Redis that is one server, or behind Sentinel"
            )
        yield ArqRedis(
            places.of(None).connection_pool,
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name=settings.arq_queue,
        )
    finally:
        await places.aclose()


async def _work(worker: Worker, stop: asyncio.Event, grace_s: float) -> None:
    """Run one arq worker until `stop` is set or its Redis fails, and leave nothing of it
    running.
    """
    working = asyncio.create_task(worker.async_run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            worker.allow_pick_jobs = False
            if worker.tasks:
                await asyncio.wait(worker.tasks.values(), timeout=grace_s)
        else:
            await working
    finally:
        stopping.cancel()
        await _close(worker, working)


async def _close(worker: Worker, working: asyncio.Task[None]) -> None:
    """Cancel what still runs and disconnect; the scheduler's own trouble with that is not ours."""
    jobs = list(worker.tasks.values())
    for task in (working, *jobs):
        task.cancel()
    await asyncio.gather(working, *jobs, return_exceptions=True)
    worker.tasks.clear()
    with suppress(RedisError, OSError):
        await worker.close()


@dataclass(frozen=True, slots=True)
class Job:
    """What may be late: one round of it is queued every `every_s` seconds by whoever finds none
    queued.
    """

    function: Function
    every_s: float


def jobs_of(settler: Settler, settings: SettlerSettings) -> list[Job]:
    """What arq carries. Each may be done late, twice, or by another settler."""

    def job(name: str, work: Callable[[], Awaitable[None]], every_s: float) -> Job:
        async def run(ctx: dict[Any, Any]) -> None:
            await work()

        made = func(run, name=name, timeout=settings.upkeep_timeout_s, keep_result=0, max_tries=1)
        return Job(made, every_s)

    return [
        job("refresh", settler.refresh, 60.0),
        job("reconcile", settler.reconcile, 60.0),
        job("daily", settler.daily, 600.0),
    ]


def make_worker(
    settler: Settler,
    settings: SettlerSettings,
    activity: LoopActivity,
    pool: ArqRedis,
) -> Worker:
    """The arq worker on `pool`, and what queues its jobs while it runs. Results are not kept, and a
    job that was cut off is not repeated before its next time.
    """
    jobs = jobs_of(settler, settings)
    queueing: list[asyncio.Task[None]] = []

    async def begin(ctx: dict[Any, Any]) -> None:
        queueing.extend(asyncio.create_task(_queue(ctx["redis"], job, activity)) for job in jobs)

    async def end(ctx: dict[Any, Any]) -> None:
        for task in queueing:
            task.cancel()
        await asyncio.gather(*queueing, return_exceptions=True)

    return Worker(
        functions=[job.function for job in jobs],
        handle_signals=False,
        on_startup=begin,
        on_shutdown=end,
        redis_pool=pool,
        queue_name=settings.arq_queue,
        job_serializer=serialize,
        job_deserializer=deserialize,
        job_timeout=settings.upkeep_timeout_s,
        keep_result=0,
        log_results=False,
        max_jobs=20,
        max_tries=1,
        poll_delay=_POLL_S,
        retry_jobs=False,
        timezone=UTC,
    )


async def _queue(redis: ArqRedis, job: Job, activity: LoopActivity) -> None:
    """Queue a job again and again. Its id is its name, so that one waits at most, whatever was
    frozen for how long; one that nobody takes is forgotten before the next is due. Trouble with
    Redis ends the worker, by its own polling, and this with it.
    """
    while True:
        with suppress(RedisError, OSError):
            await redis.enqueue_job(
                job.function.name,
                _job_id=f"taximeter.{job.function.name}",
                _defer_until=_LONG_AGO,
                _expires=job.every_s * 0.9,
            )
            activity.beat(job.function.name)
        await asyncio.sleep(job.every_s)
