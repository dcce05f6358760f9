"""A whole API on real sockets: an upstream that counts its calls, the stores, callers of every
role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from support.patience import API, PATIENT_S
from support.world import SHARDS, World, serving
from taximeter.api.app import create_app
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.settings.api import ApiSettings
from taximeter.api.simulator.app import create_simulator
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.status.heartbeats import IN_TIME

NOTICE_KEY = "A" * 43 + "="


@pytest.fixture
async def stores(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[Stores]:
    """Both stores, with every shard open."""
    settings = StoreSettings(
        database_url=database_url,
        redis_url=redis_url,
        redis_timeout_s=PATIENT_S,
        key_prefix=key_prefix,
        shards=SHARDS,
    )
    async with open_stores(settings) as opened:
        shards = await ensure_shards(opened, SHARDS)
        for shard in range(shards):
            for _ in range(10):
                if (await guard(opened, shard, shards)).usable:
                    break
        await say_that_a_settler_lives(opened)
        yield opened


async def say_that_a_settler_lives(stores: Stores) -> None:
    """Heartbeats of one that is alive and well for as long as a test takes: tests do its work."""
    await stores.pool.execute(
        "INSERT INTO taximeter.heartbeats"
        " SELECT 'test', loop, 1, now() + interval '1 hour', now() + interval '1 hour', 1, null, 0"
        " FROM unnest($1::text[]) AS loop",
        list(IN_TIME),
    )


@pytest.fixture
def api_options() -> dict[str, Any]:
    """Settings that a test wants to be different: override this fixture, or parametrize it."""
    return {}


@pytest.fixture
def payments() -> PaymentVerifier | None:
    """What verifies payments of organisations' own admins; nothing, as long as nobody pays."""
    return None


@pytest.fixture
async def world(
    stores: Stores,
    app_database_url: str,
    settler_database_url: str,
    redis_url: str,
    key_prefix: str,
    tmp_path: Path,
    api_options: dict[str, Any],
    payments: PaymentVerifier | None,
) -> AsyncIterator[World]:
    simulator = create_simulator()
    async with serving(simulator) as upstream:
        options = {
            "database_url": app_database_url,
            "redis_url": redis_url,
            "key_prefix": key_prefix,
            "dev_mode": True,
            "data_dir": tmp_path,
            "upstream_base_url": f"{upstream}/v1",
            "upstream_name": "simulated",
            "membership_cache_s": 0.0,
            "shutdown_grace_s": 5.0,
            "notice_keys": NOTICE_KEY,
            **API,
            "rate_limits": False,  # Tests ask more often than people; those of limits switch it on.
            "strangers_per_minute": 0,
            **api_options,
        }
        settings = ApiSettings(**options)
        app = create_app(settings, payments=payments)
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, timeout=PATIENT_S, trust_env=False) as client,
            asyncpg.create_pool(settler_database_url, min_size=0, max_size=4) as settler_pool,
        ):
            settling = replace(stores, pool=settler_pool)
            yield World(url, client, stores, settling, settings, simulator, app)
