"""docs/python-client.md is one program that prints what it says, and names every error."""

from __future__ import annotations

import re
from pathlib import Path

from redis.asyncio import Redis
from support.programs import output_of
from support.shard import ScriptedShard

import taximeter.meter
from taximeter.meter import MeterError
from taximeter.meter.keys import ShardKeys

PAGE = (Path(__file__).parents[2] / "docs" / "python-client.md").read_text(encoding="utf-8")


async def test_the_program_prints_what_the_page_says(redis: Redis, redis_url: str) -> None:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.settler_was_there()
    await shard.load("acme/ann", 1000)
    await shard.load("acme/poor", 100)
    program = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    [promised] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert output_of(program, redis_url) == promised


def test_every_error_is_in_the_table() -> None:
    public = {name: getattr(taximeter.meter, name) for name in taximeter.meter.__all__}
    errors = {
        name
        for name, kind in public.items()
        if isinstance(kind, type) and issubclass(kind, MeterError) and kind is not MeterError
    }
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)) == errors
