"""An open set of shards with a funded account, and Meters that are closed when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from support.credit import Books
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.waiting import answered

from taximeter.meter import LoadedAccount, Loader, Meter, MeterSettings
from taximeter.meter.wire.keys import ShardKeys

MeterFactory = Callable[..., Awaitable[Meter]]


async def nobody(org_id: str, user_id: str) -> LoadedAccount | None:
    """A Postgres that knows no account."""
    return None


@pytest.fixture
async def shard(redis: Redis) -> ScriptedShard:
    """Shard 0 of one, with `org/u` at 1,000 millicredits."""
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    await made.settler_was_there()
    await made.load("org/u", 1000)
    return made


@pytest.fixture
async def connect(redis_url: str) -> AsyncIterator[MeterFactory]:
    meters: list[Meter] = []

    async def make(url: str = redis_url, loader: Loader = nobody, **settings: object) -> Meter:
        told = MeterSettings(**settings)  # type: ignore[arg-type]
        made = await answered(lambda: Meter.connect(url, loader=loader, settings=told))
        meters.append(made)
        return made

    yield make
    for made in meters:
        await made.aclose()


@pytest.fixture
async def meter(connect: MeterFactory, shard: ScriptedShard) -> Meter:
    return await connect()


@pytest.fixture
async def books(valkey_server: ValkeyFactory, tmp_path: Path) -> AsyncIterator[Books]:
    made = Books(valkey_server("--appendfsync", "always"), tmp_path / "credit" / "journal")
    await made.shard.open()
    await made.shard.load("org/u", 1000)
    await made.shard.load("poor/u", 1000)
    yield made
    await made.redis.aclose()
