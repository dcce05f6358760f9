"""Faults that take data away: Valkey emptied, cut, put back, failed over; Postgres put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

from chaos.cluster import add_replica
from chaos.scene import Loss, Scene, Struck
from chaos.valkey import ChaosValkey


async def flushall(scene: Scene) -> Struck:
    """Everything is gone from one moment to the next, on connections that stay open."""
    epochs = await scene.epochs()
    settled = await scene.settled()
    began = time.time()
    async with scene.cluster.redis() as redis:
        await redis.flushall()
    emptied = time.time()
    bit = await _rebuilt(scene, epochs)
    return Struck("flushall", began, time.time(), bit, loss=Loss("redis", 0.0, emptied, settled))


async def cut_log(scene: Scene) -> Struck:
    """Power loss: the end of the append-only file was never on the disk, to the byte."""
    server = scene.cluster.valkey
    kept_at = time.time()
    kept = server.log_of_writes.stat().st_size
    await asyncio.sleep(scene.random.uniform(0.4, 1.2))
    settled = await scene.settled()
    began = time.time()
    await asyncio.to_thread(server.kill)
    killed = time.time()
    log = server.log_of_writes
    size = log.stat().st_size
    cut = scene.random.randint(kept, max(kept, size - 1))
    os.truncate(log, cut)
    await asyncio.to_thread(server.start)
    await scene.usable()
    loss = Loss("redis", kept_at, killed, settled)
    detail = {"bytes_lost": size - cut}
    return Struck("cut_log", began, time.time(), size > cut, detail, loss)


async def older_redis(scene: Scene) -> Struck:
    """The data directory is put back to what it was some seconds ago."""
    server = scene.cluster.valkey
    copy = scene.cluster.folder / "older-valkey"
    epochs = await scene.epochs()
    copied = time.time()
    await asyncio.to_thread(server.copy_data, copy)
    await asyncio.sleep(scene.random.uniform(2.0, 3.5))
    settled = await scene.settled()
    began = time.time()
    await asyncio.to_thread(server.kill)
    killed = time.time()
    server.put_back(copy)
    await asyncio.to_thread(server.start)
    # What was settled since the copy must not be spent again: only a rebuild sees to that.
    bit = await _rebuilt(scene, epochs)
    loss = Loss("redis", copied, killed, settled)
    return Struck("older_redis", began, time.time(), bit, loss=loss)


async def promotion(scene: Scene) -> Struck:
    """The primary dies, and a replica that lacks its last writes takes its place."""
    cluster = scene.cluster
    assert cluster.replica is not None
    assert cluster.replication is not None
    old, new = cluster.valkey, cluster.replica
    cluster.replication.black_hole(True)
    cut_off = time.time()
    await asyncio.sleep(scene.random.uniform(0.5, 1.5))
    settled = await scene.settled()
    began = time.time()
    ahead = await _offset(scene, old)
    await asyncio.to_thread(old.kill)
    killed = time.time()
    # What was on its way died with the primary's network.
    cluster.replication.reset_all()
    lost_bytes = ahead - await _offset(scene, new)
    async with cluster.redis(new) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")
    cluster.point_to(new)
    await scene.usable()
    cluster.replication.heal()
    await add_replica(cluster)
    loss = Loss("redis", cut_off, killed, settled)
    detail = {"bytes_lost": lost_bytes}
    return Struck("promotion", began, time.time(), lost_bytes > 0, detail, loss)


async def older_postgres(scene: Scene) -> Struck:
    """Postgres is put back to a copy of some seconds ago; Valkey still has every event since."""
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
    await asyncio.to_thread(server.kill)
    killed = time.time()
    await asyncio.to_thread(_copy, copy, server.cluster)
    await asyncio.to_thread(server.start)
    lacking = len(settled.keys() - (await scene.settled()).keys())
    bit = await _rebuilt(scene, epochs) and lacking > 0
    loss = Loss("postgres", copied, killed)
    return Struck("older_postgres", began, time.time(), bit, {"settled_again": lacking}, loss)


async def _rebuilt(scene: Scene, epochs: int) -> bool:
    """Wait until a shard is at a new epoch and all of them are open."""

    async def is_rebuilt() -> bool:
        return await scene.epochs() > epochs

    rebuilt = await scene.comes(is_rebuilt, 25.0)
    await scene.usable()
    return rebuilt


async def _offset(scene: Scene, server: ChaosValkey) -> int:
    async with scene.cluster.redis(server) as client:
        return int((await client.info("replication"))["master_repl_offset"])


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


FAULTS = {
    "flushall": flushall,
    "cut_log": cut_log,
    "older_redis": older_redis,
    "promotion": promotion,
    "older_postgres": older_postgres,
}
