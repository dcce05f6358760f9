"""Moves a slot of the demo's cluster from one primary to another while requests go on."""

from __future__ import annotations

import asyncio
import time

from redis.crc import key_slot

from taximeter.api.embedded.cluster import EmbeddedCluster
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.stores import Stores
from taximeter.settler.status.nodes import shards_each

SHARDS = 32


async def describe_cluster(cluster: EmbeddedCluster, stores: Stores) -> str:
    """What there is, in a line."""
    each = ", ".join(map(str, sorted(await shards_each(stores, SHARDS), reverse=True)))
    primaries = len(cluster.primaries)
    return f"{primaries} primaries with a replica each; {SHARDS} shards on them: {each}"


async def move_slot(
    cluster: EmbeddedCluster, stores: Stores, org_id: str, begin: asyncio.Event
) -> str:
    """Move the slot of this organisation's shard as soon as `begin` is set; what was done, in a
    line. Raises ServerFailed.
    """
    await begin.wait()
    shard = shard_of(org_id, SHARDS)
    slot = key_slot(stores.keys(shard).meta.encode())
    source = cluster.owner(slot)
    target = next(node for node in cluster.primaries if node is not source)
    began = time.monotonic()
    await asyncio.to_thread(cluster.migrate, slot, target)
    took = time.monotonic() - began
    return f"shard {shard} of {org_id}, {source.name} to {target.name}, in {took:.2f} s"
