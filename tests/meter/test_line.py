"""A line gives replies in their order, however they arrive, and is of no use once it is in doubt
whose the next one is.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from taximeter.meter.lanes.line import Line


class Wire:
    """The transport of a connection: keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def set_protocol(self, line: Line) -> None:
        self.line = line

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def made(*, asks: bool = False) -> tuple[Line, Wire]:
    wire = Wire()
    connection = SimpleNamespace(
        _writer=SimpleNamespace(transport=wire), _parser=SimpleNamespace(parse_error=ResponseError)
    )
    return Line(connection, asyncio.get_running_loop(), asks=asks), wire


async def test_replies_in_pieces_keep_their_order() -> None:
    line, wire = made()
    answers = line.ask([b"one", b"two", b"three"])
    assert wire.written == b"onetwothree"
    for number, byte in enumerate(data := b"+a\r\n-WRONG b\r\n*1\r\n:3\r\n"):
        assert not answers.done(), data[:number]
        line.data_received(bytes([byte]))
    await answers
    first, second, third = line.replies()
    assert (first, str(second), third) == (b"a", "WRONG b", [3])
    assert line.replies() == []


async def test_what_came_before_the_connection_was_lost_is_there() -> None:
    line, _ = made()
    answers = line.ask([b"one", b"two"])
    line.data_received(b"+a\r\n+b")
    line.connection_lost(None)
    with pytest.raises(RedisConnectionError):
        await answers
    assert line.replies() == [b"a"]
    with pytest.raises(RedisConnectionError):
        await line.ask([b"three"])


async def test_each_call_has_its_asking_and_its_own_answer() -> None:
    line, wire = made(asks=True)
    answers = line.ask([b"one", b"two"])
    asking = b"*1\r\n$6\r\nASKING\r\n"
    assert wire.written == asking + b"one" + asking + b"two"
    line.data_received(b"+OK\r\n+OK\r\n")  # The second is the answer to the call.
    line.data_received(b"-NOPERM no\r\n-MOVED 1 a:1\r\n")
    await answers
    first, second = line.replies()
    assert first == b"OK"
    assert "NOPERM" in str(second), "it was not sent on, it was refused"


async def late(line: Line) -> Any:
    async with asyncio.timeout(0):
        await line.read_response()


async def test_a_reply_that_nobody_waited_for_is_not_taken_for_another() -> None:
    line, wire = made()
    await line.send_command("REPORT")
    with pytest.raises(TimeoutError):
        await late(line)
    assert wire.aborted
    line.data_received(b"+late\r\n")
    with pytest.raises(RedisConnectionError):
        await line.ask([b"one"])
    assert line.replies() == []


async def test_a_reply_to_nothing_ends_it() -> None:
    line, wire = made()
    line.data_received(b"+what\r\n")
    with pytest.raises(RedisConnectionError, match="not asked"):
        await line.ask([b"one"])
    assert line.replies() == []
    assert wire.aborted
    assert wire.written == b""
