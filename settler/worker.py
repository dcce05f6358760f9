"""Hosts the settler in arq: a clock and nothing more. Losing its Redis, or running twice, changes no figure anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
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

    Raises ShardCountMismatch, and asyncpg errors when Postgres cannot be reached at the start. Later troubles of either
    store, or of arq's Redis, are logged and waited out.
    """
    async with open_stores(settings) as stores:
        settler = Settler(stores, settings)
        await settler.start()
        # The first look does not wait for the clock: clients are not let in before it.
        await settler.settle()
        pause_s = _RESTART_FIRST_S
        while True:
            worker = make_worker(settler, settings)
            started = asyncio.get_running_loop().time()
            try:
                await worker.async_run()
            except asyncio.CancelledError:
                # arq cancels itself on a signal; a cancellation from outside is passed on.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                log.info("stopped")
                return
            except (RedisError, OSError) as error:
                if asyncio.get_running_loop().time() - started > _RESTART_MAX_S:
                    pause_s = _RESTART_FIRST_S
                log.error("scheduler", failed=type(error).__name__, retry_in_s=pause_s)
            finally:
                await _close(worker)
            await asyncio.sleep(pause_s)
            pause_s = min(_RESTART_MAX_S, pause_s * 2)


def make_worker(settler: Settler, settings: SettlerSettings) -> Worker:
    """The arq worker: which tick runs when. Job results are not kept, and a job that was cut off is not repeated."""
    redis_settings = RedisSettings.from_dsn(settings.arq_redis_url or settings.redis_url)
    redis_settings.conn_retries = 0
    return Worker(
        functions=[],
        cron_jobs=_schedule(settler, settings),
        redis_settings=redis_settings,
        queue_name=settings.arq_queue,
        job_serializer=serialize,
        job_deserializer=deserialize,
        job_completion_wait=max(1, round(settings.shutdown_grace_s)),
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
    """Settle, relay and sweep are jobs of their own, so that a long settle does not hold up an entry."""
    return [
        _job("settle", settler.settle, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("relay", settler.relay, settings.tick_timeout_s, second=_EVERY_SECOND),
        _job("sweep", settler.sweep, settings.tick_timeout_s, second=_EVERY_SECOND),
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
        run_at_startup=name == "daily",
        **when,  # type: ignore[arg-type]  # arq takes sets of numbers for each of these
    )


async def _close(worker: Worker) -> None:
    """Close what arq has open; its own trouble with that is not ours."""
    try:
        async with asyncio.timeout(_RESTART_MAX_S):
            await worker.close()
    except (RedisError, OSError, TimeoutError, asyncio.CancelledError):
        log.warning("scheduler", closed="not cleanly")
