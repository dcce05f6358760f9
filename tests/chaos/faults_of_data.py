"""Faults that take data away: Valkey emptied, cut, put back; Postgres put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from chaos.scene import BOUND_S, FELT_S, Loss, Scene, Struck


async def flushall(scene: Scene) -> Struck:
    """Everything is gone from one moment to the next, on connections that stay open."""
    epochs = await scene.epochs()
    settled = await scene.settled()
    began = time.time()
    async with scene.cluster.redis() as redis:
        await redis.flushall()
    emptied = time.time()
    bit = await scene.rebuilt(epochs)
    return Struck("flushall", began, time.time(), bit, loss=Loss("redis", 0.0, emptied, settled))


async def cut_log(scene: Scene) -> Struck:
    """Power loss: the end of the append-only file was never on the disk, to the byte."""
    server = scene.cluster.valkey
    kept_at = time.time()
    log = server.log_of_writes
    kept = log.stat().st_size
    await asyncio.sleep(scene.random.uniform(0.4, 1.2))

    async def has_grown() -> bool:
        return log.stat().st_size > kept

    await scene.comes(has_grown, FELT_S)
    settled = await scene.settled()
    began = time.time()
    await asyncio.to_thread(server.kill)
    killed = time.time()
    size, same = log.stat().st_size, log == server.log_of_writes
    cut = scene.random.randint(kept, max(kept, size - 1))
    if same and size > cut:
        os.truncate(log, cut)
    await asyncio.to_thread(server.start)
    await scene.usable()
    loss = Loss("redis", kept_at, killed, settled)
    detail = {"bytes_lost": size - cut}
    return Struck("cut_log", began, time.time(), same and size > cut, detail, loss)


async def older_redis(scene: Scene) -> Struck:
    """The data directory is put back to what it was some seconds ago, before what is settled."""
    server = scene.cluster.valkey
    copy = scene.cluster.folder / "older-valkey"
    copied = time.time()
    await asyncio.to_thread(server.copy_data, copy)
    epochs = await scene.epochs()
    place = await scene.numbers()
    await asyncio.sleep(scene.random.uniform(2.0, 3.5))

    async def is_passed() -> bool:
        marks = await scene.settled_numbers()
        return any(marks[shard] > seq for shard, seq in place.items())

    # What was settled since the copy must not be spent again: only a rebuild sees to that.
    passed = await scene.comes(is_passed, BOUND_S)
    settled = await scene.settled()
    began = time.time()
    await asyncio.to_thread(server.kill)
    killed = time.time()
    server.put_back(copy)
    await asyncio.to_thread(server.start)
    bit = await scene.rebuilt(epochs) and passed
    loss = Loss("redis", copied, killed, settled)
    return Struck("older_redis", began, time.time(), bit, loss=loss)


def put_back(name: str, *, written: bool) -> Callable[[Scene], Awaitable[Struck]]:
    """Postgres is put back to a copy of some seconds ago; Valkey still has every event since.
    `written`: before a settler sees it, it writes more log than it has lost, so that no position
    in its log shows that it went back.
    """

    async def strike(scene: Scene) -> Struck:
        return await _put_back(scene, name, written)

    return strike


async def _put_back(scene: Scene, name: str, written: bool) -> Struck:
    server = scene.cluster.postgres
    copy = scene.cluster.folder / "older-postgres"
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(_copy, server.cluster, copy)
    copied = time.time()
    await asyncio.to_thread(server.start)
    before = await scene.settled()

    async def is_ahead() -> bool:
        return len(await scene.settled()) > len(before) + 20

    # Without anything to settle again, nothing would be shown.
    await scene.until(is_ahead, "something to be settled after the copy")
    await asyncio.sleep(scene.random.uniform(2.0, 3.0))
    epochs = await scene.epochs()
    settled = await scene.settled()
    began = time.time()
    async with AsyncExitStack() as stack:
        if written:
            position = await _log_position(scene)
            await stack.enter_async_context(scene.cluster.without("settler"))
            await stack.enter_async_context(scene.cluster.without("api"))
        await asyncio.to_thread(server.kill)
        killed = time.time()
        await asyncio.to_thread(_copy, copy, server.cluster)
        await asyncio.to_thread(server.start)
        if written:
            await _write_log(scene, position)
    lacking = len(settled.keys() - (await scene.settled()).keys())
    bit = await scene.rebuilt(epochs) and lacking > 0
    loss = Loss("postgres", copied, killed)
    return Struck(name, began, time.time(), bit, {"settled_again": lacking}, loss)


async def _log_position(scene: Scene) -> int:
    conn = await scene.cluster.database()
    try:
        return int(await conn.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
    finally:
        await conn.close()


async def _write_log(scene: Scene, beyond: int) -> None:
    """Write and flush log until it is further than that."""
    conn = await scene.cluster.database()
    try:
        while await _log_position(scene) <= beyond:
            await conn.execute(
                "SELECT pg_logical_emit_message(true, 'chaos', repeat('x', 1000000))"
            )
    finally:
        await conn.close()


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


FAULTS = {
    "flushall": flushall,
    "cut_log": cut_log,
    "older_redis": older_redis,
    "older_postgres": put_back("older_postgres", written=False),
    "older_postgres_written": put_back("older_postgres_written", written=True),
}
