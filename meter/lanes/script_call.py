"""Takes a batch of one shard through its script call and what its reply makes necessary."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.server.handshake import Life
from taximeter.meter.server.trouble import is_out_of_memory
from taximeter.meter.wire.codes import FENCED, STALE_EPOCH
from taximeter.meter.wire.errors import ShardFenced, StoreError, StoreOutOfMemory, StoreUnavailable
from taximeter.meter.wire.operations import TAKES_CREDIT, Operation
from taximeter.meter.wire.scripts import Script, load_script

_FIELDS = len(Operation._fields)
Answers = tuple[list[Pending], list[bytes], int]
"""Those that have a reply, the replies, and how many calls have changed the shard."""


class OutOfStep(StoreError):
    """A reply that cannot be one to what was asked: what comes after it may be anybody's."""


def first_call(names: list[str], life: Life, batch: list[Pending]) -> bytes | None:
    """The packed call that takes a batch through `operate`; None when nobody is left in it:
    heartbeats from before the server's `life` are given up. `names` are the shard's keys.
    """
    operations = _arguments(batch)
    # Few are heartbeats: to ask each would cost more than to look.
    if "touch" in operations[::_FIELDS]:
        outlived = [pending for pending in batch if pending.is_outlived(life)]
        for pending in outlived:
            pending.sent = False
            pending.trouble = StoreUnavailable("Redis began anew before it came: send it again")
            pending.give_up()
            batch.remove(pending)
        if outlived:
            operations = _arguments(batch)
    if not batch:
        return None
    return _packed("EVALSHA", load_script("operate"), names, life.epoch, operations)


def answers_all(reply: Any, batch: list[Pending]) -> bool:
    """Whether the reply to a call has one for everybody in it, as nearly every one has; the last
    item is how many calls have changed the shard.
    """
    return type(reply) is list and len(reply) == len(batch) + 1


def go_on(
    names: list[str], life: Life, batch: list[Pending], reply: Any
) -> Generator[bytes, Any, Answers]:
    """What is said after a first call with another reply: yields each packed call and is sent its
    reply, an error reply as the exception that redis-py makes of it.

    When memory is out, what takes credit fails as StoreOutOfMemory and the rest goes through
    `resolve`; so does what may have been done before, which asks whether it was. Raises ShardFenced
    (nothing was done), the error reply, StoreUnavailable, OutOfStep.
    """
    replies = yield from _read(load_script("operate"), names, life.epoch, batch, reply)
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
        resolve = load_script("resolve")
        reply = yield _packed("EVALSHA", resolve, names, life.epoch, _arguments(batch))
        replies = yield from _read(resolve, names, life.epoch, batch, reply)
        if replies is None:
            raise StoreUnavailable("Redis is out of memory even for what frees memory")
    return batch, replies, int(replies.pop())


def _arguments(batch: list[Pending]) -> list[Any]:
    """Those of all operations, one after the other, which count as sent from here on."""
    arguments: list[Any] = []
    for pending in batch:
        pending.sent = True
        arguments += pending.operation
    return arguments


def _packed(
    command: str, script: Script, names: list[str], epoch: str, operations: list[Any]
) -> bytes:
    by = script.sha if command == "EVALSHA" else script.text
    # Packed by hiredis in C: redis-py's own packing costs more than the rest of the call.
    packed: bytes = pack_command((command, by, len(names), *names, epoch, *operations))
    return packed


def _read(
    script: Script, names: list[str], epoch: str, batch: list[Pending], reply: Any
) -> Generator[bytes, Any, list[Any] | None]:
    """The replies to a call, made with EVAL when the server has forgotten the script. None when
    memory is out.
    """
    if isinstance(reply, NoScriptError):
        reply = yield _packed("EVAL", script, names, epoch, _arguments(batch))
    if answers_all(reply, batch):
        return reply  # type: ignore[no-any-return]
    if isinstance(reply, ResponseError):
        if str(reply).startswith((FENCED, STALE_EPOCH)):
            raise ShardFenced(str(reply)) from reply
        if is_out_of_memory(reply):
            return None
        raise reply
    raise OutOfStep(f"{script.name} answered {reply!r:.80} for {len(batch)} operations")
