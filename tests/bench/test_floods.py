"""How long a paying user's calls take while a crowd on 500 connections does its worst from the same
address, against how long they take without it, in one run.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from support.api_world import api_options, payments, stores, world
from support.flooding import HANGING, KINDS, MEMORY_BYTES_MAX, Scene, api_scene, sidecar_scene
from support.world import World

__all__ = ["api_options", "payments", "stores", "world"]

HOSTILE = 500
CALLS = 400
SLOWER_MAX = 2.0
"""Times the undisturbed p99, which 95 % of the calls must stay within."""
ATTEMPTS = 3
"""A machine that is busy with something else is not what is judged: the best of these counts."""
pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.floods,
    pytest.mark.timeout(900),
]


@pytest.fixture
async def sidecar(
    redis: Redis, redis_url: str, pool: asyncpg.Pool[asyncpg.Record], sidecar_database_url: str
) -> AsyncIterator[Scene]:
    async with sidecar_scene(redis, redis_url, pool, sidecar_database_url) as made:
        yield made


@pytest.fixture
async def api(world: World, tmp_path: Path) -> AsyncIterator[Scene]:
    async with api_scene(world, tmp_path) as made:
        yield made


async def judged(scene: Scene, kind: str) -> float:
    """The p95 under a flood in undisturbed p99s; prints the figures of it."""
    await scene.timed(CALLS // 4)  # Everything is connected now.
    before = statistics.quantiles(await scene.timed(CALLS), n=100)
    served = psutil.Process(scene.served.process.pid)
    began, cpu = time.perf_counter(), sum(served.cpu_times()[:2])
    async with scene.under(kind, HOSTILE) as flood:
        during = statistics.quantiles(await scene.timed(CALLS), n=100)
        memory = scene.memory
        took = time.perf_counter() - began
        cpu = sum(served.cpu_times()[:2]) - cpu
    after = statistics.quantiles(await scene.timed(CALLS), n=100)
    # The dearer of both: neighbours come and go, and a flood is not to be blamed for them.
    undisturbed = max(before[98], after[98])
    ratio = during[94] / undisturbed
    figures = {
        "flood": kind,
        "undisturbed_p99_ms": round(undisturbed * 1000, 1),
        "p95_ms": round(during[94] * 1000, 1),
        "p99_ms": round(during[98] * 1000, 1),
        "ratio": round(ratio, 2),
        "memory_mb": memory >> 20,
        "server_cpu": round(cpu / took, 2),
        "crowd_cpu": round(flood.said.pop("cpu_s") / took, 2),
        "answers": flood.said,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(figures))
    assert memory < MEMORY_BYTES_MAX
    return ratio


async def best(scene: Scene, kind: str) -> float:
    ratio = float("inf")
    for _ in range(ATTEMPTS):
        ratio = min(ratio, await judged(scene, kind))
        if ratio <= SLOWER_MAX:
            break
    return ratio


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_of_the_sidecar_take_as_long(sidecar: Scene, kind: str) -> None:
    assert await best(sidecar, kind) <= SLOWER_MAX


@pytest.mark.parametrize("kind", [*KINDS, HANGING])
async def test_calls_of_the_api_take_as_long(api: Scene, kind: str) -> None:
    assert await best(api, kind) <= SLOWER_MAX
