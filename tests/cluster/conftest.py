"""One cluster for all the tests here, empty and as it was made at the beginning of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from settler_world import World
from support.cluster import SHARDS, Cluster, Live, MeterFactory, organisations, settings_of
from support.waiting import answered

from taximeter.meter import LoadedAccount, Meter, MeterSettings
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds
from taximeter.settler.books.stores import Stores, open_redis


@pytest.fixture(scope="session")
def session_cluster(
    tmp_path_factory: pytest.TempPathFactory, redis_binary: Path | None
) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), redis_binary)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """Empty, its first nodes primaries."""
    session_cluster.restore()
    for node in session_cluster.nodes:
        node.ask("CONFIG", "RESETSTAT")
    return session_cluster


@pytest.fixture
async def world(pool: asyncpg.Pool, cluster: Cluster) -> AsyncIterator[World]:
    """The same with a Postgres, opened by a settler, and an organisation on each shard."""
    client = open_redis(settings_of(cluster.url(*cluster.nodes[3:])))
    made = World(Stores(pool, client))
    await made.start(SHARDS)
    for org in organisations(SHARDS):
        await made.organization(org, u=1000)
    yield made
    await client.aclose()


@pytest.fixture
async def live(cluster: Cluster) -> AsyncIterator[Live]:
    made = Live(cluster, RoutedRedis(read_seeds(cluster.url())))
    await made.open()
    yield made
    await made.redis.aclose()


async def nobody(org_id: str, user_id: str) -> LoadedAccount | None:
    """A Postgres that knows no account."""
    return None


@pytest.fixture
async def connect(cluster: Cluster) -> AsyncIterator[MeterFactory]:
    meters: list[Meter] = []

    async def make(url: str = "", **settings: object) -> Meter:
        told = MeterSettings(**settings)  # type: ignore[arg-type]
        made = await answered(
            lambda: Meter.connect(url or cluster.url(), loader=nobody, settings=told)
        )
        meters.append(made)
        return made

    yield make
    for made in meters:
        await made.aclose()
