"""Who cancels a task of ours that talks to Redis stops it, at whatever moment the cancel comes."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds

MOMENTS = 60


@pytest.mark.redis
async def test_a_cancel_stops_a_task_at_any_moment_of_a_command(redis_url: str) -> None:
    """asyncio.wait_for of Python 3.11, in which redis-py writes, drops a cancel that comes when
    what it waits for has just ended: a loop went on for ever, and who waited for its end did too.
    """
    seeds = read_seeds(
        redis_url, socket_timeout=60.0, socket_connect_timeout=60.0, retry=Retry(NoBackoff(), 0)
    )
    redis = RoutedRedis(seeds, deadline_s=60.0)

    async def ask_for_ever() -> None:
        while True:
            await redis.get("a")

    await redis.get("a")
    went_on = []
    for moment in range(MOMENTS):
        task = asyncio.create_task(ask_for_ever())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        # Many more commands than a cancel may wait for.
        for _ in range(20):
            await redis.get("a")
        if not task.done():
            went_on.append(moment)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
    await redis.aclose()
    assert not went_on


def test_classes_of_connections_are_made_once() -> None:
    """Whatever the URL asks for, and the client's pools compare them."""
    for url in ("redis://a", "rediss://a", "unix:///run/redis.sock"):
        made = read_seeds(url).options["connection_class"]
        assert made is read_seeds(url).options["connection_class"]
        assert issubclass(made, Redis.from_url(url).connection_pool.connection_class)
