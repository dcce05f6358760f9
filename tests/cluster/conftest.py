"""One cluster for all the tests here, empty and as it was made at the beginning of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from support.cluster import Cluster, Live, MeterFactory

from taximeter.meter import LoadedAccount, Meter, MeterSettings
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.places.seeds import read_seeds


@pytest.fixture(scope="session")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
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
        made = await Meter.connect(
            url or cluster.url(),
            loader=nobody,
            settings=MeterSettings(**settings),  # type: ignore[arg-type]
        )
        meters.append(made)
        return made

    yield make
    for made in meters:
        await made.aclose()
