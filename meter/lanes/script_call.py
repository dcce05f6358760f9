"""Sends a batch to Redis as one script call on one connection, and reads its replies."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.server.handshake import Life
from taximeter.meter.server.trouble import is_out_of_memory
from taximeter.meter.wire.codes import FENCED, STALE_EPOCH
from taximeter.meter.wire.errors import ShardFenced, StoreError, StoreOutOfMemory, StoreUnavailable
from taximeter.meter.wire.operations import TAKES_CREDIT
from taximeter.meter.wire.scripts import Script, call_script, load_script


async def run_batch(
    connection: Any, keys: list[str], life: Life, batch: list[Pending]
) -> tuple[list[Pending], list[bytes], int]:
    """Send a batch through `operate`; returns those that have a reply, the replies, and how many
    calls have changed the shard. Heartbeats from before the server's `life` are given up.

    When memory is out, what takes credit fails as StoreOutOfMemory and the rest goes through
    `resolve`; so does what may have been done before, which asks whether it was. Raises ShardFenced
    (nothing was done), or what redis-py raises (then who knows).
    """
    outlived = [pending for pending in batch if pending.is_outlived(life)]
    if outlived:
        for pending in outlived:
            pending.trouble = StoreUnavailable("Redis began anew before it came: send it again")
            pending.give_up()
        batch = [pending for pending in batch if pending not in outlived]
        if not batch:
            return [], [], 0
    epoch = life.epoch
    replies = await _call(connection, load_script("operate"), keys, epoch, batch)
    if replies is None:
        asking = [
            pending
            for pending in batch
            if pending.uncertain or pending.operation.op not in TAKES_CREDIT
        ]
        for pending in batch:
            if pending not in asking:
                pending.refuse(StoreOutOfMemory())
        batch = asking
        if not batch:
            return [], [], 0
        replies = await _call(connection, load_script("resolve"), keys, epoch, batch)
        if replies is None:
            raise StoreUnavailable("Redis is out of memory even for what frees memory")
    return batch, replies, int(replies.pop())


async def _call(
    connection: Any, script: Script, keys: list[str], epoch: str, batch: list[Pending]
) -> list[Any] | None:
    """One EVALSHA, or EVAL when the server has forgotten the script. None when memory is out."""
    arguments: list[Any] = [len(keys), *keys, epoch]
    for pending in batch:
        pending.sent = True
        arguments += pending.operation
    try:
        reply = await call_script(connection, script, arguments)
    except ResponseError as error:
        if str(error).startswith((FENCED, STALE_EPOCH)):
            raise ShardFenced(str(error)) from error
        if is_out_of_memory(error):
            return None
        raise
    if not isinstance(reply, list) or len(reply) != len(batch) + 1:
        raise StoreError(f"{script.name} answered {reply!r:.80} for {len(batch)} operations")
    return reply
