"""How shards lie on the nodes of a cluster, and what a settler says of nodes that are not as they
should be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
import structlog.testing
from redis.crc import key_slot
from support.cluster import SHARDS, Cluster

from taximeter.meter.places.slot_map import SLOTS
from taximeter.meter.server.permissions import SETTLER
from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.shards.guardian import ensure_shards
from taximeter.settler.status.nodes import look_at_nodes, shards_each, uneven
from taximeter.settler.worker.jobs import Settler

FULLEST_AND_EMPTIEST = {
    3: {32: (11, 10), 64: (23, 20), 128: (50, 37)},
    4: {32: (8, 8), 64: (16, 16), 128: (32, 32)},
    5: {32: (7, 6), 64: (14, 11), 128: (30, 19)},
    6: {32: (6, 5), 64: (12, 9), 128: (27, 13)},
    8: {32: (6, 2), 64: (9, 7), 128: (25, 7)},
    12: {32: (3, 2), 64: (7, 4), 128: (19, 5)},
}
"""Of the primaries of a cluster whose slots are parted evenly, as `create` of the engine's own
command does; docs/cluster.md has them.
"""


def each_of(shards: int, primaries: int) -> list[int]:
    slots = (key_slot(ShardKeys("tm", shard).meta.encode()) for shard in range(shards))
    edges = [round(number * SLOTS / primaries) for number in range(1, primaries)]
    found = Counter(sum(edge <= slot for edge in edges) for slot in slots)
    return [found[number] for number in range(primaries)]


@pytest.mark.parametrize("primaries", FULLEST_AND_EMPTIEST)
def test_the_spread_is_as_it_was(primaries: int) -> None:
    """The names of keys say where they lie, so it changes with none of our releases."""
    for shards, (most, least) in FULLEST_AND_EMPTIEST[primaries].items():
        each = each_of(shards, primaries)
        assert (max(each), min(each)) == (most, least)


def test_the_page_has_the_same() -> None:
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text("utf-8")
    found = re.findall(r"^\| (\d+) \| (\d+), (\d+) \| (\d+), (\d+) \| (\d+), (\d+) \|$", page, re.M)
    rows = [[int(number) for number in row] for row in found]
    assert {row[0]: [(row[1], row[2]), (row[3], row[4]), (row[5], row[6])] for row in rows} == {
        primaries: list(known.values()) for primaries, known in FULLEST_AND_EMPTIEST.items()
    }


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (each_of(32, 3), None),
        (each_of(64, 3), None),
        (each_of(128, 3), "shards lie unevenly on the 3 primaries (50, 41, 37): one has 17% more "),
        (each_of(64, 12), "shards lie unevenly on the 12 primaries (7, 7, "),
        ([0, 1, 0], "shards lie unevenly on the 3 primaries (1, 0, 0): one has 200% more "),
        ([7], None),
        ([], None),
    ],
)
def test_who_has_many_more_than_others_is_told(each: list[int], said: str | None) -> None:
    warns = uneven(each)
    assert warns is None if said is None else (warns or "").startswith(said)


@pytest.fixture
async def stores(pool: asyncpg.Pool, cluster: Cluster) -> AsyncIterator[Stores]:
    """As a settler has them that logs in by a user of its own."""
    for node in cluster.nodes:
        node.ask("ACL SETUSER", "books", "on", ">secret", *SETTLER.rules("tm").split(" "))
    url = cluster.url(*cluster.nodes).replace("redis://", "redis://books:secret@")
    client = open_redis(SettlerSettings(redis_url=url, redis_timeout_s=60.0))
    made = Stores(pool, client, durability="everysec")
    await ensure_shards(made, SHARDS)
    yield made
    await client.aclose()
    for node in cluster.nodes:
        with suppress(ConnectionError):
            node.ask("ACL DELUSER", "books")


async def test_nodes_are_looked_at_before_they_are_promoted(
    stores: Stores, cluster: Cluster
) -> None:
    """Each thing is said once, with the name of the node, and again after it was mended."""
    assert await look_at_nodes(stores, SHARDS) == []
    assert sorted(await shards_each(stores, 128)) == [37, 41, 50]
    settler = Settler(stores, SettlerSettings(shards=SHARDS))
    await settler.start()
    first, second, third = cluster.nodes[3:]
    try:
        first.ask("ACL SETUSER", "books", "-xtrim")
        second.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
        third.ask("CONFIG SET", "appendonly", "no")
        said = await said_by(settler)
        assert len(said) == 3
        assert any(f"lacks a permission on {first.name} (XTRIM)" in one for one in said)
        assert any(one.startswith(f"{second.name}: maxmemory-policy is allk") for one in said)
        assert any(one.startswith(f"{third.name}: appendonly is off") for one in said)
        assert await said_by(settler) == []
        first.ask("ACL SETUSER", "books", "+xtrim")
        assert await said_by(settler) == []
        first.ask("ACL SETUSER", "books", "-xtrim")
        assert len(await said_by(settler)) == 1
    finally:
        second.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        third.ask("CONFIG SET", "appendonly", "yes")


async def test_settings_that_break_a_promise_are_named(
    pool: asyncpg.Pool, cluster: Cluster
) -> None:
    """Where the user may read them."""
    client = open_redis(SettlerSettings(redis_url=cluster.url(), redis_timeout_s=60.0))
    stores = Stores(pool, client)
    primary, replica, gone = cluster.nodes[0], cluster.nodes[4], cluster.nodes[5]
    try:
        assert await look_at_nodes(stores, SHARDS) == []
        primary.ask("CONFIG SET", "cluster-require-full-coverage", "yes")
        replica.ask("CONFIG SET", "cluster-node-timeout", 2000)
        gone.kill()
        said = await look_at_nodes(stores, SHARDS)
        while not any("has no replica" in one for one in said):
            said = await look_at_nodes(stores, SHARDS)
        assert [one for one in said if one.startswith(f"{primary.name}: cluster-require-full")]
        assert [one for one in said if one.startswith(f"{replica.name}: cluster-node-timeout is 2")]
        assert [one for one in said if one.startswith(f"{cluster.nodes[2].name}: it has no rep")]
        assert [one for one in said if one.startswith(f"{gone.name} does not answer")]
        assert len(said) == 4
    finally:
        primary.ask("CONFIG SET", "cluster-require-full-coverage", "no")
        replica.ask("CONFIG SET", "cluster-node-timeout", 5000)
        await client.aclose()


async def said_by(settler: Settler) -> list[str]:
    with structlog.testing.capture_logs() as logs:
        await settler.reconcile()
    return [one["warns"] for one in logs if one["event"] == "cluster"]
