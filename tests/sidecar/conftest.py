"""A sidecar on a real socket in front of a real store, with one funded user."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller, calling, served

from taximeter.meter import Meter
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import Sidecar, create_sidecar
from taximeter.meter.wire.keys import ShardKeys


@pytest.fixture
async def shard(redis: Redis) -> ScriptedShard:
    """Shard 0 of one, where acme/ann has 1,000 credits."""
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    await made.settler_was_there()
    await made.load("acme/ann", FUNDS)
    return made


@pytest.fixture
async def meter(redis_url: str, shard: ScriptedShard) -> AsyncIterator[Meter]:
    async with await Meter.connect(redis_url) as made:
        yield made


@pytest.fixture(scope="session")
def pricer() -> Pricer:
    return Pricer()


@pytest.fixture
def sidecar(meter: Meter, pricer: Pricer) -> Sidecar:
    return create_sidecar(meter, pricer=pricer)


@pytest.fixture
async def caller(sidecar: Sidecar) -> AsyncIterator[Caller]:
    async with served(sidecar) as url, calling(url) as made:
        yield made
