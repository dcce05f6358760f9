"""Reads a shard as Redis has it, for those who judge it."""

from __future__ import annotations

from collections.abc import Mapping

from taximeter.settler.books.fingerprint import fingerprint
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark
from taximeter.settler.settling.events import parse_id
from taximeter.settler.shards.verdict import ShardView


async def view_shard(stores: Stores, shard: int, mark: Mark | None = None) -> ShardView:
    """The shard as Redis has it: meta and the stream's last id at one moment, and the run id of the
    server that has them. With `mark` also what the stream has under the id of that watermark, which
    whoever judges needs. Raises redis errors.
    """
    keys = stores.keys(shard)
    async with stores.redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.meta)
        pipe.exists(keys.events)
        pipe.execute_command("XINFO STREAM", keys.events)
        pipe.info("server", "replication")
        if mark is not None:
            entry_id = f"{mark.epoch}-{mark.seq}"
            pipe.xrange(keys.events, entry_id, entry_id)
        meta, exists, stream, server, *settled = await pipe.execute(raise_on_error=False)
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
    entries = settled[0] if settled and exists else []
    return ShardView(
        str(server["run_id"]),
        texts,
        last_id,
        str(server.get("master_replid", "")),
        fingerprint(*entries[0]) if entries else None,
        began_history=_began_history(server),
    )


def _began_history(server: Mapping[str, object]) -> bool:
    """Whether the server has begun its replication history by itself, continuing none. A primary
    does when its first replica comes, and when the last one has been gone for as long as
    repl-backlog-ttl says; one that was a replica keeps that history's id as its second one.
    """
    second = str(server.get("master_replid2", ""))
    return server.get("role") == "master" and bool(second) and not second.strip("0")
