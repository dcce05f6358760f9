"""A freshly opened shard with one account of 1,000 millicredits."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from support.shard import ScriptedShard

from taximeter.meter.wire.keys import ShardKeys


@pytest.fixture
async def shard(redis: Redis) -> ScriptedShard:
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    await made.load("org/u", 1000)
    return made
