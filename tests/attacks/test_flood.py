"""Crowds without credits against a process that serves somebody with credits: every call of theirs
is answered, and memory stays below a bound. Nothing here is timed against the machine; how long
calls take meanwhile is judged in bench/test_floods.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from support.flooding import HANGING, KINDS, MEMORY_BYTES_MAX, Scene, api_scene, sidecar_scene
from support.waiting import eventually
from support.world import World

HOSTILE = 200
CALLS = 20
STOPS_WITHIN_S = 60.0
"""The promise is three seconds, and api/test_keys.py shows by a clock of its own that nothing is
believed for longer; this is what a busy machine may add. What is not noticed takes an hour.
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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


async def is_paid(scene: Scene, kind: str) -> None:
    """503 is what a process says whose store is late, as it may be on a busy machine: asked again,
    it answers. Any other refusal is one too many.
    """

    async def is_answered() -> bool:
        status = await scene.pay()
        assert status in (200, 503), (kind, status)
        return status == 200

    await eventually(is_answered, what=f"an answer under {kind}")


async def is_served_under_each(scene: Scene, kinds: tuple[str, ...]) -> None:
    assert await scene.pay() == 200
    for kind in kinds:
        async with scene.under(kind, HOSTILE) as flood:
            for _ in range(CALLS):
                await is_paid(scene, kind)
            assert scene.memory < MEMORY_BYTES_MAX, kind
        assert "200" not in flood.said, kind
        assert "500" not in flood.said, kind
    assert scene.served.process.returncode is None


async def test_a_paying_user_of_the_sidecar_is_served(sidecar: Scene) -> None:
    await is_served_under_each(sidecar, KINDS)


@pytest.mark.whole
async def test_a_paying_user_of_the_api_is_served(api: Scene) -> None:
    await is_served_under_each(api, (*KINDS, HANGING))


async def test_a_revoked_key_stops_while_others_are_made_up(
    sidecar: Scene, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    assert await sidecar.pay() == 200
    async with sidecar.under("forged keys", HOSTILE):
        assert await sidecar.pay() == 200
        await pool.execute(
            "UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = 'a'"
            " WHERE org_id = 'acme'"
        )

        async def is_refused() -> bool:
            return await sidecar.pay() in (401, 429)

        await eventually(is_refused, within_s=STOPS_WITHIN_S, what="the end of the key")
