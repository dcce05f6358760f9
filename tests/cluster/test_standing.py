"""A primary that wakes answers for what another one has by now: nobody is told so."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from support.cluster import (
    PRIMARIES,
    Cluster,
    Live,
    MeterFactory,
    pause,
    resume,
    until,
    waits_for_a_reply,
)
from support.waiting import eventually

from taximeter.api.embedded.cluster import ClusterNode
from taximeter.meter.places import standing
from taximeter.meter.places.asking import asking
from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.places.standing import agreed


async def test_what_a_primary_answers_that_was_replaced_is_asked_of_its_heir(
    live: Live, cluster: Cluster, connect: MeterFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late or early its answer comes: a caller cannot know when it woke."""
    monkeypatch.setattr(standing, "TRUSTED_S", 0.0)  # It was frozen for longer than that.
    meter = await connect(call_timeout_s=60.0, take_timeout_s=60.0, lanes_per_server=1)
    old, org = cluster.nodes[live.owner(0)], live.orgs[0]
    await meter.charge(org, "u", 1, request_id="before")
    old.ask("WAIT", 1, 60_000)
    heir = cluster.replica_of(old)
    pause(old)
    try:
        charging = asyncio.create_task(meter.charge(org, "u", 17, request_id="r"))
        await eventually(waits_for_a_reply(meter))
        await asyncio.to_thread(cluster.take_over, heir)
        others = [one for one in cluster.nodes[:PRIMARIES] if one is not old]
        until(lambda: all(owner(one, live.slot(0)) == heir.port for one in others))
    finally:
        resume(old)
    await eventually(lambda: approved(live))
    assert (await charging).charged == 17
    assert await live.charged(0) == ["before", "r"]
    cluster.restore()


def owner(asked: ClusterNode, slot: int) -> int:
    """The port of who has the slot, as this node says."""
    ranges = asked.ask("CLUSTER SLOTS")
    return next(int(first[1]) for low, high, first, *_ in ranges if low <= slot <= high)


async def approved(live: Live) -> bool:
    try:
        await live.approve(0)
    except (RedisError, OSError):
        return False
    return True


async def test_a_majority_says_so_or_nobody_is_told() -> None:
    async def says(one: bool | Exception) -> bool:
        if isinstance(one, Exception):
            raise one
        return one

    async def is_agreed(answers: list[bool | Exception], needed: int) -> bool:
        return await agreed(map(says, answers), needed)

    away = RedisConnectionError("away")
    assert await is_agreed([], 0)
    assert await is_agreed([away, True], 1)
    assert await is_agreed([True, TimeoutError(), True], 2)
    assert not await is_agreed([True, away], 2)
    assert not await is_agreed([False, True, True, True], 4)
    assert not await is_agreed([away, away], 1)


async def test_a_refused_asking_is_no_answer_to_what_comes_next(redis_url: str) -> None:
    """The call behind it is answered as well, and that answer belongs to nobody else."""
    options = read_seeds(redis_url).at(None, connection_class=asking(Connection))
    host, port = read_seeds(redis_url).addresses[0]
    async with Redis.from_url(redis_url) as plain:
        await plain.mset({"standing:a": "1", "standing:b": "2"})
        pool = ConnectionPool(**{**options, "host": host, "port": port, "max_connections": 1})
        async with Redis(connection_pool=pool) as client:
            for key in ("standing:a", "standing:b", "standing:a"):
                with pytest.raises(ResponseError, match="cluster support disabled"):
                    await client.get(key)
            with pytest.raises(ResponseError, match="cluster support disabled"):
                async with client.pipeline(transaction=True) as pipe:
                    await pipe.get("standing:a").get("standing:b").execute()
            with pytest.raises(ResponseError, match="cluster support disabled"):
                await client.get("standing:b")
        await pool.disconnect()
        await plain.delete("standing:a", "standing:b")
