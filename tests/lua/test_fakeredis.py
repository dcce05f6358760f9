"""The scripts on fakeredis, for people who test their own gateway without a server.

fakeredis has no `#!lua` line, so the first line is dropped for it; memory limits are not simulated
there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fakeredis import FakeAsyncRedis
from support.shard import ScriptedShard, op

from taximeter.meter.wire import scripts
from taximeter.meter.wire.keys import ShardKeys


@pytest.fixture
async def shard(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedShard]:
    real = scripts.load_script

    def without_first_line(name: str) -> scripts.Script:
        script = real(name)
        return replace(script, text="\n" + script.text.partition("\n")[2], sha="0" * 40)

    monkeypatch.setattr("support.shard.load_script", without_first_line)
    redis = FakeAsyncRedis()
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open(run_id="fake")
    await made.load("org/u", 1000)
    yield made
    await redis.aclose()


async def test_the_life_of_a_hold(shard: ScriptedShard) -> None:
    assert await shard.batch(
        op("reserve", "a", 300),
        op("reserve", "b", 800),
        op("commit", "a", 120),
        op("charge", "c", 80),
    ) == ["1 700 300", "-1 700 300", "1 880 0", "1 800 0"]
    assert await shard.one("commit", "a", 120) == "2 800 0 committed 300 120"
    await shard.one("reserve", "d", 100)
    await shard.one("touch", "d", 30)
    await shard.overdue("d")
    assert await shard.sweep() == [1, 1, 0]
    assert await shard.apply(("org/u", 2, 230)) == ["1 2"]
    assert await shard.account() == (1000, 0, 2)
    assert [event[0] for event in await shard.events()] == ["1-2", "1-2", "1-3"]
