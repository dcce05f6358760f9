"""The client: its own code for a call and for what is known of an operation, over a `Store`.

What is of the client here: `first_call`, `go_on`, `greet`, `Pending`, `parse_reply`,
`raise_refusal`. What a lane does around them, and a dispatcher around that, is written once more
without waiting, so that a search can stop and go on between any two steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal

from redis.exceptions import ConnectionError as Gone
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from taximeter.meter.lanes.pending import NOT_LOADED, NOT_LOADED_IN_DOUBT, Pending
from taximeter.meter.lanes.script_call import answers_all, first_call, go_on
from taximeter.meter.server.acknowledged import Acknowledged
from taximeter.meter.server.handshake import Life, greet
from taximeter.meter.server.trouble import is_final, may_have_written
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.errors import (
    AccountNotFound,
    MeterError,
    OutcomeUnknown,
    RequestReplayed,
    ShardFenced,
    StoreUnavailable,
)
from taximeter.meter.wire.keys import ShardKeys, split_account
from taximeter.meter.wire.operations import (
    Operation,
    known_receipt,
    ok_receipt,
    parse_reply,
    raise_refusal,
)
from taximeter.meter.wire.receipt import Receipt

Way = Literal["ok", "lost", "unsent"]
"""What the network does to a call: nothing; its reply is lost; it never arrives."""


class Answer:
    """Stands for the future of an operation: nobody waits here."""

    __slots__ = ("error", "reply")

    def __init__(self) -> None:
        self.reply: bytes | None = None
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.reply is not None or self.error is not None

    def cancelled(self) -> bool:
        return False

    def set_result(self, reply: bytes) -> None:
        self.reply = reply

    def set_exception(self, error: BaseException) -> None:
        self.error = error


class Connection:
    """Stands for a connection of redis-py's: runs at once what is sent."""

    def __init__(self, execute: Callable[[list[str]], Any], way: Way) -> None:
        self._execute = execute
        self._way = way
        self._replies: list[Any] = []

    async def send_packed_command(self, packed: Any, check_health: bool = True) -> None:
        for one in [packed] if isinstance(packed, bytes) else packed:
            self._send(_unpack(one))

    async def send_command(self, *arguments: str) -> None:
        self._send([str(one) for one in arguments])

    async def read_response(self, **_: Any) -> Any:
        reply = self._replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _send(self, arguments: list[str]) -> None:
        is_call = arguments[0] in ("EVALSHA", "EVAL")
        if is_call and self._way == "unsent":
            raise Gone("Connection closed by server.")
        try:
            reply = _bytes(self._execute(arguments))
        except ResponseError as error:
            text = str(error)
            reply = OutOfMemoryError(text[4:]) if text.startswith("OOM ") else error
        if is_call and self._way == "lost" and not isinstance(reply, BaseException):
            reply = Gone("Connection closed by server.")
        self._replies.append(reply)


def attempt(
    pending: Pending,
    life: Life | None,
    keys: ShardKeys,
    execute: Callable[[list[str]], Any],
    way: Way,
    acknowledged: Acknowledged,
) -> tuple[Pending, Life | None]:
    """One call that carries one operation, as a lane makes it; returns it as it is then (answered,
    or to be tried again) and the life of the server that the lane is connected to, None when it
    must greet again.
    `acknowledged` is changed.
    """
    pending = copy.copy(pending)
    pending.future = Answer()  # type: ignore[assignment]
    connection = Connection(execute, way)
    try:
        if life is None:
            life = _run(greet(connection, keys, None, acknowledged)).life
        before = acknowledged.told
        batch, replies, writes = _converse(connection, keys, life, pending)
        for answered, reply in zip(batch, replies, strict=True):
            answered.answer(reply)
        if batch:
            acknowledged.note(before, life.epoch, writes)
        _report(acknowledged, connection)
    except ShardFenced as error:
        _report(acknowledged, connection)
        pending.interrupt(error, uncertain=False)
        return pending, None
    except (RedisError, OSError) as error:
        trouble = StoreUnavailable(f"{type(error).__name__} {error}".rstrip())
        if is_final(error):
            pending.interrupt(trouble, uncertain=may_have_written(error))
            pending.give_up()
            return pending, None
        pending.interrupt(trouble, uncertain=not isinstance(error, ResponseError))
        return pending, None
    return pending, life


def _converse(
    connection: Connection, keys: ShardKeys, life: Life, pending: Pending
) -> tuple[list[Pending], list[bytes], int]:
    batch = [pending]
    packed = first_call(keys.batch(), life, batch)
    if packed is None:
        return [], [], 0
    reply = _ask(connection, packed)
    if answers_all(reply, batch):
        return batch, reply, int(reply.pop())
    talk = go_on(keys.batch(), life, batch, reply)
    try:
        packed = next(talk)
        while True:
            packed = talk.send(_ask(connection, packed))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _ask(connection: Connection, packed: bytes) -> Any:
    _run(connection.send_packed_command(packed))
    try:
        return _run(connection.read_response())
    except ResponseError as error:
        return error


def _report(acknowledged: Acknowledged, connection: Connection) -> None:
    """Tell the guardian what was lost, while the connection still works."""
    if acknowledged.has_news:
        with suppress(ResponseError, Gone):
            _run(acknowledged.report(connection))


def waiting(operation: Operation, *, in_doubt: bool = False, life: Life | None = None) -> Pending:
    """The operation, submitted and not sent yet."""
    answer: Any = Answer()
    return Pending(operation, 0.0, 0.0, answer, uncertain=in_doubt, life=life)


def again(pending: Pending) -> Pending:
    """The same operation, submitted anew after its account was loaded. `Dispatcher._loaded`."""
    answer: Any = pending.future
    in_doubt = answer.reply == NOT_LOADED_IN_DOUBT
    return waiting(pending.operation, in_doubt=in_doubt, life=pending.life)


def not_found(pending: Pending) -> MeterError:
    """What is told when nobody can load its account. `Dispatcher._loaded`."""
    answer: Any = pending.future
    if answer.reply == NOT_LOADED_IN_DOUBT:
        return OutcomeUnknown("its account is not there")
    return AccountNotFound(*split_account(pending.operation.account))


def is_not_loaded(pending: Pending) -> bool:
    answer: Any = pending.future
    return answer.reply in (NOT_LOADED, NOT_LOADED_IN_DOUBT)


def read(pending: Pending) -> Receipt | MeterError:
    """What its caller is told, once it is answered or given up. `Dispatcher.reserve` and `ask`."""
    answer: Any = pending.future
    if not answer.done():
        pending = copy.copy(pending)
        answer = pending.future = Answer()  # type: ignore[assignment]
        pending.give_up()
    if answer.error is not None:
        return answer.error  # type: ignore[no-any-return]
    operation, reply = pending.operation, parse_reply(answer.reply)
    if operation.op == "void":
        return Receipt(operation.request_id, "voided", 0, 0, 0, 0)  # type: ignore[arg-type]
    try:
        raise_refusal(operation, reply)
    except MeterError as error:
        return error
    if reply.code is Code.OK:
        return ok_receipt(operation, reply.available, reply.held)
    if operation.op == "reserve" and reply.code is Code.REPLAYED:
        return RequestReplayed(known_receipt(operation, reply))
    return known_receipt(operation, reply)


def is_unknown(told: Receipt | MeterError) -> bool:
    return isinstance(told, OutcomeUnknown)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("the client waits for something that is not its connection")


def _unpack(packed: bytes) -> list[str]:
    parts, at = [], packed.index(b"\r\n") + 2
    while at < len(packed):
        end = packed.index(b"\r\n", at)
        size = int(packed[at + 1 : end])
        parts.append(packed[end + 2 : end + 2 + size].decode("latin-1"))
        at = end + 2 + size + 2
    return parts


def _bytes(reply: Any) -> Any:
    if isinstance(reply, str):
        return reply.encode("latin-1")
    if isinstance(reply, list):
        return [_bytes(one) for one in reply]
    return reply
