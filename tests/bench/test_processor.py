"""The cost of an operation is that of what was done, on whatever number of shards."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from bench.live import LiveShards, make_accounts
from bench.processor import Costs, requests_side


@pytest.mark.parametrize("shards", [1, 8])
async def test_what_an_operation_costs(redis: Redis, redis_url: str, shards: int) -> None:
    live = LiveShards(redis, "tmcost", make_accounts(50, 20), shards)
    costs = Costs()
    assert await requests_side(redis_url, live, [redis], 10, costs)(0.05) > 0
    await live.remove()
    for figure in costs.figures("x", "x", 1, None, ""):
        assert figure.ours.low > 0
