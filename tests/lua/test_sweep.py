"""Holds that nobody ends: they end at their deadline, exactly once, and a late commit finds what is
left.
"""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError
from support.shard import ScriptedShard, op
from support.waiting import eventually


async def test_an_expired_hold_gives_everything_back(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    assert await shard.sweep() == [0, 0, 0], "not due yet"
    await shard.overdue("r")
    assert await shard.sweep() == [1, 0, 0]
    assert await shard.account() == (1000, 0, 1)
    assert await shard.events() == []
    assert await shard.redis.hgetall(shard.keys.outcomes) == {b"org/r": b"expired 300 0 org/u"}


async def test_a_hold_expires_by_redis_time_alone(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300, ttl_ms=1)

    async def swept() -> bool:
        return (await shard.sweep())[0] == 1

    await eventually(swept, what="expiry of a hold of one millisecond")


async def test_reported_progress_is_charged_at_expiry(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300, payload="{}")
    await shard.one("touch", "r", 120)
    await shard.overdue("r")
    assert await shard.sweep() == [1, 1, 0]
    assert await shard.account() == (880, 0, 1)
    assert await shard.events() == [["1-1", "expire", "org/u", "org/r", "120", "300", "-", "{}"]]


async def test_a_late_commit_charges_only_what_is_missing(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    await shard.one("touch", "r", 120)
    await shard.overdue("r")
    await shard.sweep()
    assert await shard.one("commit", "r", 120) == "3 880 0 120"
    assert await shard.one("commit", "r", 200) == "3 800 0 200"
    assert await shard.one("commit", "r", 200) == "2 800 0 committed 300 200"
    assert (await shard.one("commit", "r", 201)).startswith("-4 ")
    events = await shard.events()
    assert [(event[1], event[4], event[6]) for event in events] == [
        ("expire", "120", "-"),
        ("commit", "80", "rest"),
    ]


async def test_a_late_commit_of_an_expired_hold_without_progress(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    await shard.overdue("r")
    await shard.sweep()
    assert await shard.one("commit", "r", 1200) == "3 -200 0 1200"
    assert [event[6] for event in await shard.events()] == ["late"]
    assert await shard.one("release", "r") == "-4 -200 0 committed 300 1200"


async def test_release_and_touch_after_expiry(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    await shard.overdue("r")
    await shard.sweep()
    assert await shard.one("release", "r") == "2 1000 0 expired 300 0"
    assert await shard.one("touch", "r", 1) == "-4 1000 0 expired 300 0"


async def test_expiry_and_commit_race_for_one_hold(shard: ScriptedShard) -> None:
    """Whoever comes first, the actual amount is charged once and the hold ends once."""
    for i in range(50):
        request = f"r{i}"
        await shard.one("reserve", request, 10)
        await shard.overdue(request)
        await asyncio.gather(shard.sweep(), shard.one("commit", request, 7))
    assert await shard.account() == (1000 - 50 * 7, 0, 1)
    events = await shard.events()
    assert len(events) == 50
    assert {event[4] for event in events} == {"7"}
    assert await shard.redis.hlen(shard.keys.holds) == 0
    assert await shard.redis.zcard(shard.keys.deadlines) == 0


async def test_a_sweep_is_bounded_and_says_what_is_left(shard: ScriptedShard) -> None:
    await shard.batch(*[op("reserve", f"r{i}", 1) for i in range(25)])
    for i in range(25):
        await shard.overdue(f"r{i}")
    assert await shard.sweep(limit=10) == [10, 0, 15]
    assert await shard.sweep(limit=10) == [10, 0, 5]
    assert await shard.sweep(limit=10) == [5, 0, 0]
    assert await shard.account() == (1000, 0, 1)


async def test_a_damaged_hold_does_not_stop_the_sweep(shard: ScriptedShard) -> None:
    await shard.batch(op("reserve", "a", 1), op("reserve", "b", 1))
    await shard.redis.hset(shard.keys.holds, "org/a", "nonsense")
    await shard.overdue("a")
    await shard.overdue("b")
    assert await shard.sweep() == [1, 0, 0]
    assert await shard.redis.hgetall(shard.keys.holds) == {b"org/a": b"nonsense"}
    assert await shard.sweep() == [0, 0, 0]


async def test_two_sweepers_end_a_hold_once(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    await shard.one("touch", "r", 50)
    await shard.overdue("r")
    ended = await asyncio.gather(*[shard.sweep() for _ in range(5)])
    assert sum(count for count, _, _ in ended) == 1
    assert await shard.account() == (950, 0, 1)
    assert len(await shard.events()) == 1


async def test_nothing_is_swept_on_a_server_that_nobody_has_approved(shard: ScriptedShard) -> None:
    """A settler that froze between its look and its sweep, and wakes after Redis came back without
    its newest writes, would charge what was released, under the number of a lost event.
    """
    await shard.one("reserve", "r", 300)
    await shard.one("touch", "r", 120)
    await shard.overdue("r")
    approved = await shard.redis.hget(shard.keys.meta, "run_id")
    await shard.redis.hset(shard.keys.meta, "run_id", "of-another-server")
    with pytest.raises(ResponseError, match="FENCED the server has not been approved"):
        await shard.sweep()
    assert await shard.account() == (700, 300, 1)
    await shard.redis.hset(shard.keys.meta, "run_id", approved)
    assert (await shard.sweep())[:2] == [1, 1]
