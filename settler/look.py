"""Reads a shard as Redis has it, for those who judge it."""

from __future__ import annotations

from taximeter.settler.events import parse_id
from taximeter.settler.stores import Stores
from taximeter.settler.verdict import Seen


async def look(stores: Stores, shard: int) -> Seen:
    """The shard as Redis has it: meta and the stream's last id at one moment, and the run id of the
    server that has them.
    """
    keys = stores.keys(shard)
    async with stores.redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.meta)
        pipe.exists(keys.events)
        pipe.execute_command("XINFO STREAM", keys.events)
        pipe.info("server", "replication")
        meta, exists, stream, server = await pipe.execute(raise_on_error=False)
    for answer in (meta, exists, server):
        if isinstance(answer, Exception):
            raise answer
    last_id: tuple[int, int] | None = None
    if exists:
        if isinstance(stream, Exception):
            raise stream
        last = parse_id(stream["last-generated-id"])
        last_id = None if last == (0, 0) else last
    texts = {name.decode(): value.decode("utf-8", "replace") for name, value in meta.items()}
    return Seen(str(server["run_id"]), texts, last_id, str(server.get("master_replid", "")))
