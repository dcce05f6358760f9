"""Looks at every node of a cluster, replicas too: what would keep clients away from it, which of
its settings break a promise, and whether the shards lie evenly on the primaries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from taximeter.meter.places.places import ClusterPlaces, Node
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.server.durability import read_config, read_facts
from taximeter.meter.server.permissions import SETTLER, MissingPermission, check_permissions
from taximeter.settler.books.stores import Stores

NODE_TIMEOUT_MS_MIN: Final = 5_000
UNEVEN: Final = 1.15
"""So many times its part a primary may have before it is said."""
_COVERAGE: Final = "cluster-require-full-coverage"
_TIMEOUT: Final = "cluster-node-timeout"


async def look_at_nodes(stores: Stores, shards: int) -> list[str]:
    """What is to be said of the nodes that have these shards, and of their replicas, in words that
    name each; nothing where there is one server. Of settings it is what this user may read.

    Raises redis errors when nobody says which nodes there are.
    """
    redis = stores.redis
    places = await redis.places() if isinstance(redis, RoutedRedis) else None
    if not isinstance(places, ClusterPlaces):
        return []
    looks = await asyncio.gather(*(_look(stores, *one) for one in places.nodes().items()))
    try:
        spread = uneven(await shards_each(stores, shards))
    except ResponseError as error:  # Some slot is nobody's; of the nodes there is more to say.
        spread = str(error)
    return [*([spread] if spread else []), *(said for look in looks for said in look)]


async def shards_each(stores: Stores, shards: int) -> list[int]:
    """How many of these shards each primary of a cluster has; nothing where there is one server.

    Raises redis errors when nobody says which nodes there are, or a shard has none.
    """
    redis = stores.redis
    places = await redis.places() if isinstance(redis, RoutedRedis) else None
    if not isinstance(places, ClusterPlaces):
        return []
    each = {node.name: 0 for node, is_primary in places.nodes().items() if is_primary}
    for shard in range(shards):
        name = places.of(stores.keys(shard).meta).name
        each[name] = each.get(name, 0) + 1
    return list(each.values())


def uneven(shards_each: Sequence[int]) -> str | None:
    """What is to be said of how many shards each primary has; None where that is even enough."""
    each = sorted(shards_each, reverse=True)
    shards, primaries = sum(each), len(each)
    if primaries < 2 or each[0] <= UNEVEN * shards / primaries:
        return None
    more = each[0] * primaries / shards - 1
    return (
        f"shards lie unevenly on the {primaries} primaries ({', '.join(map(str, each))}): one has "
        f"{more:.0%} more than its part; move slots, or take 32 or 64 shards (docs/cluster.md)"
    )


async def _look(stores: Stores, node: Node, is_primary: bool) -> list[str]:
    """Of one node, as the primary that it may become any moment."""
    try:
        facts = await read_facts(node)
        found = replace(facts, is_primary=True).objections(stores.durability)
        if is_primary and not facts.replicas:
            found.append("it has no replica: without it its shards wait until it is back")
        config = await read_config(node, _COVERAGE, _TIMEOUT)
        if config.get(_COVERAGE) == "yes":
            found.append(
                f"{_COVERAGE} is yes: when one primary is gone with its replicas, all shards stop"
            )
        if int(config.get(_TIMEOUT, NODE_TIMEOUT_MS_MIN)) < NODE_TIMEOUT_MS_MIN:
            found.append(
                f"{_TIMEOUT} is {config[_TIMEOUT]}: a node that is only slow is replaced; set it "
                f"to {NODE_TIMEOUT_MS_MIN} or more"
            )
        # Of a primary whoever approves it asks, and refuses.
        if not is_primary:
            await check_permissions(node, SETTLER, stores.keys(0).meta, on_replica=True)
    except MissingPermission as error:
        return [*(f"{node.name}: {one}" for one in found), str(error)]
    except NoPermissionError as error:
        return [f"{node.name}: {error}"]
    except (RedisError, OSError) as error:
        return [f"{node.name} does not answer: {type(error).__name__} {error}".rstrip()]
    return [f"{node.name}: {one}" for one in found]
