"""What was read ahead is only booked when nothing can have changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from settler_world import World, eventually

from taximeter.settler.books.watermarks import Mark
from taximeter.settler.settling.read_ahead import Reader
from taximeter.settler.settling.settle import settle_shard


class Counting:
    """A Redis client that counts reads of runs: what comes after an entry, without it."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.reads = 0

    async def xrange(self, *args: Any, **kwargs: Any) -> Any:
        self.reads += str(args[1]).startswith("(")
        return await self._redis.xrange(*args, **kwargs)

    async def hget(self, *args: Any) -> Any:
        return await self._redis.hget(*args)

    async def hmget(self, *args: Any) -> Any:
        return await self._redis.hmget(*args)


async def on_server(world: World, name: str) -> None:
    """The data is that of the server of this name, as an approval writes it down."""
    await world.stores.redis.hset(world.keys().meta, "run_id", name)


class Interrupted:
    """A pool that lets something happen before its second connection is handed out."""

    def __init__(self, pool: Any, between: Callable[[], Awaitable[None]]) -> None:
        self._pool = pool
        self._between = between
        self._handed_out = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        self._handed_out += 1
        if self._handed_out == 2:
            await self._between()
        async with self._pool.acquire() as conn:
            yield conn


async def rewrite(world: World, amount: int) -> None:
    """Events 3 and 4 are lost with their server, and others get their numbers."""
    keys = world.keys()
    lines = [await world.line("ann", amount, f"new{i}") for i in (3, 4)]
    # A stream takes no id behind its last one, so it is written afresh.
    kept = await world.stores.redis.xrange(keys.events, "-", "1-2")
    await world.stores.redis.delete(keys.events)
    for entry_id, fields in kept:
        await world.stores.redis.xadd(keys.events, fields, id=entry_id)
    for seq, line in zip((3, 4), lines, strict=True):
        fields = {b"t": b"1790000000000", b"v1": line}
        await world.stores.redis.xadd(keys.events, fields, f"1-{seq}")


async def four_charges(world: World) -> None:
    await world.organization("acme", ann=10**6)
    for i in range(4):
        await world.charge("ann", 1, f"old{i}")


async def test_the_next_run_is_there_when_it_is_asked_for(world: World) -> None:
    await four_charges(world)
    await on_server(world, "server")
    redis = Counting(world.stores.redis)
    reader = Reader(dataclasses.replace(world.stores, redis=redis), 0, 2)
    mark = Mark(0, 1, 0, "server")
    run, rows = await reader.take(mark)
    assert (run.last_seq, run.full, redis.reads) == (2, True, 1)
    assert rows is not None
    reader.read_next(mark, run)

    async def read() -> bool:
        return redis.reads == 2

    await eventually(read)
    mark = Mark(0, 1, 2, "server", settled_entry=run.fingerprint)
    run, rows = await reader.take(mark)
    assert (run.after_seq, run.last_seq, redis.reads) == (2, 4, 2)
    # A transaction that was undone asks for it again.
    again, _ = await reader.take(mark)
    assert (again, redis.reads) == (run, 2)
    await reader.close()


async def test_a_run_is_read_again_when_anything_has_moved(world: World) -> None:
    await four_charges(world)
    redis = Counting(world.stores.redis)
    stores = dataclasses.replace(world.stores, redis=redis)
    for moved in (Mark(0, 1, 2, "another"), Mark(0, 1, 3, "server"), Mark(0, 2, 2, "server")):
        await on_server(world, "server")
        reader = Reader(stores, 0, 2)
        run, _ = await reader.take(Mark(0, 1, 0, "server"))
        reader.read_next(Mark(0, 1, 0, "server"), run)
        await read_to_the_end(reader)
        before = redis.reads
        await on_server(world, str(moved.run_id))
        again, _ = await reader.take(moved)
        assert redis.reads == before + 1
        assert (again.epoch, again.after_seq) == (moved.epoch, moved.seq)
        await reader.close()


async def read_to_the_end(reader: Reader) -> None:
    task = reader._next[1] if reader._next else None
    assert task is not None

    async def done() -> bool:
        return task.done()

    await eventually(done)


async def test_events_of_a_server_that_lost_them_are_not_booked(world: World) -> None:
    """The guardian trusts a restarted server between two batches; the second was read before."""
    await four_charges(world)

    async def restart() -> None:
        await rewrite(world, 100)
        await world.pool.execute("UPDATE taximeter.watermarks SET run_id = 'restarted'")
        await on_server(world, "restarted")

    pool: Any = Interrupted(world.pool, restart)
    stores = dataclasses.replace(world.stores, pool=pool)
    result = await settle_shard(stores, 0, batch_events=2)
    assert (result.state, result.settled) == ("idle", 4)
    assert await world.used("ann") == 202


async def test_a_failure_of_reading_ahead_is_told_and_loses_nothing(world: World) -> None:
    await four_charges(world)

    class Failing(Counting):
        async def xrange(self, *args: Any, **kwargs: Any) -> Any:
            answer = await super().xrange(*args, **kwargs)
            if self.reads == 2:
                raise ConnectionError("gone")
            return answer

    stores = dataclasses.replace(world.stores, redis=Failing(world.stores.redis))
    with pytest.raises(ConnectionError):
        await settle_shard(stores, 0, batch_events=2)
    assert await world.used("ann") == 2
    assert (await settle_shard(stores, 0, batch_events=2)).settled == 2
    await world.assert_books()
