"""Hosts the settler in arq: a clock and nothing more. Losing its Redis, or running twice, changes
no figure anywhere.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC
from typing import Any, Final

import structlog
from arq.connections import RedisSettings
from arq.cron import CronJob, cron
from arq.worker import Worker
from redis.exceptions import RedisError

from taximeter.settler.settings import SettlerSettings
from taximeter.settler.stores import open_stores
from taximeter.settler.ticks import Settler

_POLL_S: Final = 0.1
_RESTART_FIRST_S: Final = 0.2
_RESTART_MAX_S: Final = 5.0
_EVERY_SECOND: Final = set(range(60))

log = structlog.get_logger("taximeter.settler")


def serialize(job: dict[str, Any]) -> bytes:
    """Jobs as JSON: arq's default would let whoever can write to its Redis run code here."""
    return json.dumps(job, default=str).encode()


def deserialize(data: bytes) -> dict[str, Any]:
    """The opposite. Raises ValueError for anything that is not JSON."""
    job: dict[str, Any] = json.loads(data)
    return job


async def run_worker(settings: SettlerSettings) -> None:
    """Work until SIGTERM or SIGINT; ticks that run then get `shutdown_grace_s` to finish.

    Raises ShardCountMismatch, and OSError or asyncpg errors when Postgres cannot be reached at the
    start. Later troubles of either store, or of arq's Redis, are logged and waited out.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Ours and not arq's: a signal must also count before its worker is there, and between two of
    # them.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_stores(settings) as stores:
        settler = Settler(stores, settings)
        await settler.start()
        # The first look does not wait for the clock: clients are not let in before it. Entries come
        # before any sweep, which would end holds that they still have to end.
        await settler.settle()
        await settler.relay()
        pause_s = _RESTART_FIRST_S
        while not stop.is_set():
            started = loop.time()
            try:
                await _work(make_worker(settler, settings), stop, settings.shutdown_grace_s)
            except (RedisError, OSError) as error:
                if loop.time() - started > _RESTART_MAX_S:
                    pause_s = _RESTART_FIRST_S
                log.error("scheduler", failed=type(error).__name__, retry_in_s=pause_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)
                pause_s = min(_RESTART_MAX_S, pause_s * 2)
    log.info("stopped")


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


def make_worker(settler: Settler, settings: SettlerSettings) -> Worker:
    """The arq worker: which tick runs when. Job results are not kept, and a job that was cut off is
    not repeated.
    """
    redis_settings = RedisSettings.from_dsn(settings.arq_redis_url or settings.redis_url)
    redis_settings.conn_retries = 0
    return Worker(
        functions=[],
        handle_signals=False,
        cron_jobs=_schedule(settler, settings),
        redis_settings=redis_settings,
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


def _schedule(settler: Settler, settings: SettlerSettings) -> list[CronJob]:
    """Settle, relay, sweep and moves are jobs of their own, so that a long settle does not hold up
    an entry.
    """
    return [
        _job("settle", settler.settle, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("relay", settler.relay, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("sweep", settler.sweep, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("moves", settler.moves, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("refresh", settler.refresh, settings.upkeep_timeout_s, second={15}),
        _job("reconcile", settler.reconcile, settings.upkeep_timeout_s, second={30}),
        _job("daily", settler.daily, settings.upkeep_timeout_s, hour={0}, minute={5}, second={0}),
    ]


def _job(
    name: str, work: Callable[[], Awaitable[None]], timeout_s: float, **when: set[int]
) -> CronJob:
    async def run(ctx: dict[Any, Any]) -> None:
        await work()

    return cron(
        run,
        name=f"taximeter.{name}",
        timeout=timeout_s,
        keep_result=0,
        run_at_startup=name in ("daily", "refresh"),
        **when,  # type: ignore[arg-type]  # arq takes sets of numbers for each of these
    )
