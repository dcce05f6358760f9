"""One script call on one connection: a batch goes out, replies come back to those who wait."""

from __future__ import annotations

from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from taximeter.meter.codes import FENCED, STALE_EPOCH
from taximeter.meter.errors import ShardFenced, StoreError, StoreOutOfMemory, StoreUnavailable
from taximeter.meter.faults import is_out_of_memory
from taximeter.meter.operations import TAKES_CREDIT
from taximeter.meter.pending import Pending
from taximeter.meter.scripts import Script, load_script
from taximeter.meter.waits import Waits, confirm

META = 5
"""Place of meta among the keys of `operate`."""


async def run_batch(
    connection: Any,
    keys: list[str],
    epoch: str,
    batch: list[Pending],
    waits: Waits | None = None,
) -> None:
    """Send a batch through `operate` and answer everybody in it.

    When memory is out, what takes credit fails as StoreOutOfMemory and the rest goes through
    `resolve`. With `waits`, nobody is answered before the writes are as far as it says. Raises
    ShardFenced (nothing was done), NotConfirmed, or what redis-py raises (then who knows).
    """
    replies = await _call(connection, load_script("operate"), keys, epoch, batch)
    if replies is None:
        refused = [pending for pending in batch if pending.operation.op in TAKES_CREDIT]
        batch = [pending for pending in batch if pending.operation.op not in TAKES_CREDIT]
        for pending in refused:
            pending.fail(
                StoreOutOfMemory("Redis is out of memory; holds can still be committed or released")
            )
        if not batch:
            return
        replies = await _call(connection, load_script("resolve"), keys, epoch, batch)
        if replies is None:
            raise StoreUnavailable("Redis is out of memory even for what frees memory")
    if waits is not None:
        wait = waits.of(pending.operation.op for pending in batch)
        if wait != "none":
            await confirm(connection, keys[META], wait, waits)
    for pending, raw in zip(batch, replies, strict=True):
        pending.succeed(raw)


async def _call(
    connection: Any, script: Script, keys: list[str], epoch: str, batch: list[Pending]
) -> list[Any] | None:
    """One EVALSHA, or EVAL when the server has forgotten the script. None when memory is out."""
    arguments: list[Any] = [len(keys), *keys, epoch]
    for pending in batch:
        pending.sent = True
        arguments += pending.operation
    try:
        try:
            reply = await _send(connection, "EVALSHA", script.sha, arguments)
        except NoScriptError:
            reply = await _send(connection, "EVAL", script.text, arguments)
    except ResponseError as error:
        if str(error).startswith((FENCED, STALE_EPOCH)):
            raise ShardFenced(str(error)) from error
        if is_out_of_memory(error):
            return None
        raise
    if not isinstance(reply, list) or len(reply) != len(batch):
        raise StoreError(f"{script.name} answered {reply!r:.80} for {len(batch)} operations")
    return reply


async def _send(connection: Any, command: str, script: str, arguments: list[Any]) -> Any:
    # Packed by hiredis in C: redis-py's own packing costs more than the rest of the call.
    packed = pack_command((command, script, *arguments))
    await connection.send_packed_command(packed, check_health=False)
    return await connection.read_response(disable_decoding=True)
